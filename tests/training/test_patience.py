"""A run ends when its evaluations no longer get better, says so, and goes on if it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upslope.config import load_settings
from upslope.record import best
from upslope.record.journal import read_journal
from upslope.training import held_out
from upslope.training.best import idle
from upslope.training.evaluate import Evaluation
from upslope.training.start import launch
from upslope.training.view import NullView

SCORES = {0: 0.1, 1: 0.5, 2: 0.5, 3: 0.4, 4: 0.9, 5: 0.2}
"""Mean reward after so many steps, of rewards that do not say what is right."""


class Said(NullView):
    lines: list[str]

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def attempt(self: Any, step: int, samples: int, progress: Any) -> Evaluation:
        self._done.add((step, samples))
        return Evaluation({"reward": SCORES[step]}, [])

    monkeypatch.setattr(held_out.HeldOut, "attempt", attempt)
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "Tom has 3 apples.", "completion": "3"}\n')

    def run(*more: str, resume: bool = False) -> tuple[list[int], str, list[str]]:
        given = [
            "model=pocket:blank",
            "recipe=sft",
            "task.data=.",
            "problems=1",
            "eval.problems=1",
            "eval.every=1",
            "steps=5",
        ]
        view = Said()
        view.lines = []
        settings = load_settings(None, [*given, "name=run", "save.best=true", "eval.every=1", *more])
        folder = launch(settings, lambda: view, resume=resume)
        journal = read_journal(folder)
        return [row["step"] for row in journal.steps], str((journal.end or {}).get("cause", "")), view.lines

    return run


def test_it_ends_in_order_and_goes_on_with_more_patience(launched: Any) -> None:
    assert launched("eval.patience=2", "steps=2")[:2] == ([0, 1], "")
    steps, cause, lines = launched("eval.patience=2", resume=True)  # it counts what it saw before it was stopped
    assert (steps, cause) == ([0, 1, 2], "2 evaluations without a better one (eval.patience = 2)")
    assert lines[-1] == f"the run ends after step 3: {cause}; --resume with a larger eval.patience goes on"
    assert best.best_step(Path("runs/run")) == 1
    again = launched("eval.patience=2", resume=True)
    assert again[:2] == (steps, cause) and again[2][-1] == lines[-1]
    steps, cause, _ = launched("eval.patience=3", resume=True)
    assert (steps, cause) == ([0, 1, 2, 3, 4], "")
    assert best.best_step(Path("runs/run")) == 4


def test_the_first_evaluation_counts_and_a_step_counts_once() -> None:
    rows = [
        {"kind": "eval", "step": step, "greedy": {"value": value}} for step, value in ((0, 0.5), (1, 0.5), (1, 0.5))
    ]
    assert idle(rows) == 1 and idle(rows[:1]) == idle([]) == 0
    assert idle([*rows, {"kind": "step", "step": 1}, {"kind": "eval", "step": 2, "held_out_loss": 1.0}]) == 2
