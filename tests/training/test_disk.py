"""Room on the disk for a run's checkpoints, asked for before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from upslope.config import load_settings
from upslope.errors import Unavailable
from upslope.training import disk
from upslope.training.start import launch
from upslope.training.view import NullView

SMALL = ["model=pocket:blank", "problems=2", "sample.max_tokens=4", "eval.problems=0", "device=cpu", "save.rollouts=0"]


def started(folder: Path, *more: str, resume: bool = False) -> Path:
    return launch(load_settings(None, [*SMALL, *more, f"out={folder}", "name=run"]), NullView, resume=resume)


def limited(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(disk, "shutil", SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=int(free))))


@pytest.mark.parametrize(
    "recipe", [["recipe=reinforce"], ["recipe=ppo", "recipe.critic.warmup=0"], ["recipe=trpo", "learn.dtype=float32"]]
)
def test_a_checkpoint_takes_what_was_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: list[str]
) -> None:
    """Up to headers, the tokenizer and the state in JSON: a few hundred kB beside 2 MB and more."""
    found: list[int] = []
    plain = disk.checkpoint_bytes
    monkeypatch.setattr(disk, "checkpoint_bytes", lambda *given: found.append(plain(*given)) or found[-1])
    run = started(tmp_path, "steps=1", "recipe.sample.group_size=2", *recipe)
    (written,) = (run / "checkpoints").glob("step-*")
    size = sum(file.stat().st_size for file in written.rglob("*") if file.suffix in (".safetensors", ".state"))
    assert found[0] <= size <= found[0] * 1.05


def test_a_run_without_room_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 172_000 * 12  # a blank pocket model, its weights and two moments of each
    limited(monkeypatch, 2.5 * size)
    with pytest.raises(
        Unavailable, match=r"run has 5\.\d MB free, and its checkpoints need 6\.\d MB more \(3 of 2\.\d MB"
    ):
        started(tmp_path, "recipe=grpo", "steps=5", "save.every=2")
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    started(tmp_path, "recipe=grpo", "steps=1", "save.keep=9")  # it writes one, and the name is still free


def test_those_that_are_there_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started(tmp_path, "steps=2", "save.every=1")
    limited(monkeypatch, 1.5 * 172_000 * 12)  # two are there already: one more fits
    started(tmp_path, "steps=3", resume=True)
    limited(monkeypatch, 0.5 * 172_000 * 12)
    with pytest.raises(Unavailable, match="make room"):
        started(tmp_path, "steps=4", resume=True)
