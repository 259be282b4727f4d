"""The real run on next to nothing: every stage, once, and nothing a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "gsm8k" / "run.py"


def test_every_stage_runs_and_what_is_done_is_skipped(smollm2_dir: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(smollm2_dir, num_hidden_layers=3)  # eight processes open it
    model = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(smollm2_dir, config=config, dtype=torch.float32).save_pretrained(model)
    AutoTokenizer.from_pretrained(smollm2_dir).save_pretrained(model)
    for name in ("train", "test"):
        rows = [
            {
                "question": f"A pen costs {i} dollars. What do 3 cost?",
                "answer": f"3*{i} = <<3*{i}={3 * i}>>{3 * i}\n#### {3 * i}",
            }
            for i in range(2, 8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, str(SCRIPT), "--model", str(model), "--data", str(tmp_path), "--smoke"]
    command += ["--out", str(tmp_path / "gsm8k")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert first.returncode == 0, first.stderr
    out = tmp_path / "gsm8k-smoke"
    for stage in ("start", "sft", "rl-0", "start-alone", "sft-alone", "rl-0-alone"):
        found = json.loads((out / f"{stage}.json").read_text())
        assert found["greedy"]["num_problems"] == 4 and {"lenient", "pass_at"} <= found.keys()
        assert len((out / f"{stage}.attempts.jsonl").read_text().splitlines()) == 4 * (1 + 2)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (out / "table.md").read_text().splitlines()]
    assert rows[0][1:6] == [
        "greedy, strict",
        "greedy, lenient",
        "pass@1",
        "pass@2",
        "tokens: its own + the calculator's",
    ]
    without = "the same, without the calculator"
    assert [row[0] for row in rows[2:]] == [
        *("as it comes", without),
        *("imitation", without),
        *("reinforcement learning, seed 0", without),
    ]
    assert [row[-1].split(",")[0] for row in rows[2:]] == ["", "", "2 steps", "", "2 steps", ""]
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    for run in ("sft", "rl-0"):
        rows = [json.loads(line) for line in (out / run / "journal.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["kind"] == "step"] == [0, 1]
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0 and "upslope train" not in again.stderr and "upslope eval" not in again.stderr
    assert again.stdout == first.stdout
