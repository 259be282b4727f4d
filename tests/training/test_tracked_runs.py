"""A run with trackers is the run without them, whatever the trackers do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tracked import Dawdling, Failing, Hanging, Remembering

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.record.checkpoint import newest
from upslope.record.trackers.base import TrackedLine, Tracker
from upslope.training.session import tracker_of
from upslope.training.start import launch
from upslope.training.view import NullView

REWARD = """
def odd(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
SETTINGS = [
    *("model=pocket:blank", "task.data=data.jsonl", "problems=2", "recipe=grpo", "recipe.sample.group_size=4"),
    *("eval.problems=4", "eval.every=2", "sample.max_tokens=5", "learn.lr=0.01", "learn.warmup=0", "device=cpu"),
]
MEASURED = ("seconds", "spent", "tokens_per_s", "memory_gb", "resident_gb")


class Listener(NullView):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARD)
    rows = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 4)]
    for name in ("data", "test"):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("upslope.training.checks.require_trackers", lambda names: None)
    monkeypatch.setattr("upslope.record.trackers.recorder.LAST_SECONDS", 0.5)
    return tmp_path


def run(name: str, steps: int, *extra: str, tracker: Tracker | None = None, resume: bool = False) -> tuple[Path, Any]:
    options: dict[str, Any] = {"task.rewards": ["mine.py:odd"], "task.eval_data": "test.jsonl"}
    options |= {"name": name, "steps": steps} | ({"track": ["wandb"]} if tracker is not None else {})
    view = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("upslope.training.session.tracker_of", lambda name: tracker)
        folder = launch(load_settings(None, [*SETTINGS, *extra], options), lambda: view, resume=resume)
    return folder, view


def lines(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows if row["kind"] in ("step", "eval")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = newest(folder / "checkpoints")
    assert found is not None
    return load_file(found.folder / "model.safetensors")


def require_same(folder: Path, other: Path) -> None:
    assert lines(folder) == lines(other)
    first, second = weights(folder), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def bad(request: pytest.FixtureRequest) -> Iterator[Tracker]:
    made = {
        "fails": lambda: Failing("open", "send", "close"),
        "hangs": lambda: Hanging("send"),
        "never opens": lambda: Hanging("open"),
        "is slow": lambda: Dawdling(10.0),
    }[request.param]()
    yield made
    if isinstance(made, Hanging):
        made.let_go.set()


@pytest.mark.parametrize("bad", ["fails", "hangs", "never opens", "is slow"], indirect=True)
def test_a_bad_tracker_changes_nothing(place: Path, bad: Tracker) -> None:
    plain, _ = run("plain", 6)
    began = time.monotonic()
    tracked, view = run("tracked", 6, tracker=bad)
    assert time.monotonic() - began < 60
    require_same(plain, tracked)
    assert len([row for row in lines(tracked) if row["kind"] == "step"]) == 6
    assert len([text for text in view.said if text.startswith("tracker wandb is left alone")]) == 1
    told = [
        row for row in map(json.loads, (tracked / "journal.jsonl").read_text().splitlines()) if row["kind"] == "tracker"
    ]
    assert [row["tracker"] for row in told] == ["wandb"]


def test_a_good_tracker_hears_all_of_a_run_and_of_its_resumed_half(place: Path) -> None:
    ledger: list[TrackedLine] = []
    whole, _ = run("whole", 4)
    run("tracked", 2, tracker=Remembering(ledger))
    tracked, view = run("tracked", 4, tracker=Remembering(ledger), resume=True)
    require_same(whole, tracked)
    assert "wandb: look here" in view.said
    assert [(line.kind, line.step) for line in ledger] == [(row["kind"], row["step"]) for row in lines(tracked)]
    for line, row in zip(ledger, lines(tracked), strict=True):
        if line.kind == "step":
            assert line.numbers["outcome/reward"] == row["reward"]
            assert line.numbers["update/loss"] == row["loss"]
            assert 0 < len(line.shown) < 10
        else:
            assert {"eval/greedy", "eval/greedy/low", "eval/greedy/high"} <= line.numbers.keys()
        unknown = [name for name in line.numbers if name.startswith("other/")]
        assert unknown == [], "a column that upslope writes has no group"


def test_a_run_may_be_resumed_with_and_without_a_tracker(place: Path) -> None:
    ledger: list[TrackedLine] = []
    run("tracked", 2, tracker=Remembering(ledger))
    num = len(ledger)
    run("tracked", 3, resume=True)
    assert len(ledger) == num
    tracked, _ = run("tracked", 4, tracker=Remembering(ledger), resume=True)
    assert [(line.kind, line.step) for line in ledger] == [(row["kind"], row["step"]) for row in lines(tracked)]


def test_what_cannot_be_tracked_is_told_before_a_folder_is_made(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(names: object) -> None:
        raise UserError("tracker wandb is not installed")

    monkeypatch.setattr("upslope.training.checks.require_trackers", missing)
    with pytest.raises(UserError, match="not installed"):
        run("tracked", 2, tracker=Remembering([]))
    assert not Path("runs").exists()
    for given, words in ((["wandbb"], "did you mean 'wandb'"), (["wandb", "wandb"], "twice")):
        with pytest.raises(UserError, match=words):
            load_settings(None, [], {"track": given})


def test_every_tracker_has_its_class() -> None:
    names = [type(tracker_of(name)).__name__ for name in ("tensorboard", "trackio", "wandb")]
    assert names == ["TensorBoardTracker", "TrackioTracker", "WandbTracker"]
