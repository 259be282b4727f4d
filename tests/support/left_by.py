"""What a run left, to be compared with what another one left: all but what a clock or a gauge says."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from upslope.record.checkpoint import newest

MEASURED = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")


def journal(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in MEASURED} for r in rows if r["kind"] != "resume"]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, moments and counts of the newest checkpoint, by file and name."""
    found = newest(folder / "checkpoints")
    assert found is not None
    files = [*found.folder.glob("*.safetensors"), *found.folder.glob("resume/*.state")]
    return {f"{p.name}/{n}": t for p in files for n, t in load_file(p).items()}
