"""The best checkpoint of a run: which one it is, that it stays, and how it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from upslope.cli.measure import own_task
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.record import best
from upslope.record.folder import FolderRecorder
from upslope.record.load import load_model
from upslope.tasks.registry import open_task
from upslope.tasks.text_alone import TextAlone
from upslope.training import held_out
from upslope.training.best import Best, worth
from upslope.training.checks import check_measured
from upslope.training.evaluate import Evaluation
from upslope.training.settings import EvalSettings, RunSettings, SaveSettings
from upslope.training.start import launch
from upslope.training.task_settings import TaskSettings
from upslope.training.view import NullView

SCORES = {1: 0.2, 2: 0.8, 3: 0.8, 4: 0.1, 5: 0.3}
"""Greedy accuracy after so many steps."""


def row(step: int, greedy: float | None = None, loss: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "eval", "step": step}
    return (
        found
        | ({} if greedy is None else {"greedy": {"value": greedy}})
        | ({} if loss is None else {"held_out_loss": loss})
    )


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ([], None),
        ([row(0, 0.9), row(1, 0.1)], 1),  # before the first step the weights are another's
        ([row(1, 0.1), row(2, 0.3), row(3, 0.2)], 2),
        ([row(1, 0.1), row(2, 0.1)], 1),  # of equals the first
        ([row(1, 0.1, 2.0), row(2, 0.1, 1.0)], 2),  # unless the loss tells them apart
        ([row(1, 0.2, 2.0), row(2, 0.1, 1.0)], 1),
        ([row(1, loss=2.0), row(2, loss=1.0), row(3, loss=1.5)], 2),
        ([row(1)], None),
    ],
)
def test_the_best_of_some_evaluations(rows: list[dict[str, Any]], step: int | None) -> None:
    assert Best.of(rows).step == step


def test_an_evaluation_without_measure_is_worth_nothing() -> None:
    assert worth({"step": 3}) is None


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Evaluations say what ``SCORES`` says."""

    def attempt(self: Any, step: int, samples: int, progress: Any) -> Evaluation:
        self._done.add((step, samples))
        return Evaluation({"greedy": {"value": SCORES.get(step, 0.99)}}, [])

    monkeypatch.setattr(held_out.HeldOut, "attempt", attempt)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, steps: int, *extra: str, resume: bool = False) -> Path:
    given = ["model=pocket:blank", "recipe=sft", "problems=2", "eval.problems=1", "eval.every=1", "save.every=1"]
    given += ["save.keep=1", "learn.lr=0.01", "learn.warmup=0", *extra]
    return launch(load_settings(None, given, {"name": name, "steps": steps}), NullView, resume=resume)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_best_checkpoint_stays_beside_the_newest(scored: Path) -> None:
    folder = run("kept", 4, "save.best=true")
    assert checkpoints(folder) == ["step-000002", "step-000004"]
    assert json.loads((folder / "best.json").read_text()) == {"step": 2}


def test_without_asking_only_the_newest_stay(scored: Path) -> None:
    folder = run("plain", 3)
    assert checkpoints(folder) == ["step-000003"]
    assert not (folder / "best.json").exists()


def test_a_better_evaluation_gets_a_checkpoint_where_none_was_due(scored: Path) -> None:
    folder = run("due", 4, "save.best=true", "save.every=0")
    assert checkpoints(folder) == ["step-000002", "step-000004"]


def test_a_resumed_run_marks_what_a_kill_kept_it_from_marking(scored: Path) -> None:
    folder = run("killed", 2, "save.best=true", "save.keep=9")
    best.mark(folder, 1)  # as if it had ended between the checkpoint and its mark
    run("killed", 5, "save.best=true", "save.keep=1", resume=True)
    assert best.best_step(folder) == 2
    assert checkpoints(folder) == ["step-000002", "step-000005"]


def test_an_older_start_forgets_a_best_that_came_later(scored: Path) -> None:
    folder = run("back", 3, "save.best=true", "save.keep=9")
    recorder = FolderRecorder(folder, 9)
    given = ["model=pocket:blank", "recipe=sft", "problems=2", "eval.problems=1", "eval.every=1", "save.every=1"]
    given += ["save.keep=9", "learn.lr=0.01", "learn.warmup=0", "save.best=true"]
    settings = load_settings(None, given, {"name": "back", "steps": 1})
    launch(settings, NullView, resume=True, since=1)
    assert (best.best_step(folder), recorder.kept()) == (1, [1])


def test_the_best_is_asked_for_by_name(scored: Path) -> None:
    folder = run("asked", 4, "save.best=true")
    expected = load_file(folder / "checkpoints" / "step-000002" / "model.safetensors")
    newest = load_file(folder / "checkpoints" / "step-000004" / "model.safetensors")
    model, _ = load_model(f"{folder}@best")
    found = dict(model.named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[name], expected[name])
    assert not torch.equal(expected[name], newest[name])
    assert own_task(f"{folder}@best", trust=False) == folder / "run.toml"
    (scored / "next.toml").write_text('model = "runs/asked@best"\n')
    assert load_settings(scored / "next.toml").model == str(folder.resolve()) + "@best"


def test_a_run_that_kept_no_best_says_so(scored: Path) -> None:
    folder = run("none", 1)
    with pytest.raises(UserError, match=r"has marked no checkpoint as its best; train with save.best=true"):
        load_model(f"{folder}@best")
    best.mark(folder, 7)
    with pytest.raises(UserError, match="step-000007, the best of its run: it is no folder"):
        load_model(f"{folder}@best")
    (folder / "best.json").write_text("[]")
    with pytest.raises(UserError, match="does not say a step; delete it"):
        load_model(f"{folder}@best")


def test_the_best_of_no_evaluation_is_refused():
    pocket = open_task("pocket")
    nothing = RunSettings(eval=EvalSettings(problems=0), save=SaveSettings(best=True))
    with pytest.raises(UserError, match=r"nothing is evaluated; set eval\.problems"):
        check_measured(nothing, pocket)
    text = replace(nothing, task=TaskSettings(text=("a.txt",)))
    check_measured(text, pocket)
    with pytest.raises(UserError, match="nothing is evaluated"):
        check_measured(replace(text, eval=EvalSettings(text_tokens=0)), TextAlone())
    with pytest.raises(UserError, match=r"eval\.samples = 4: text alone has no problems to attempt"):
        check_measured(replace(text, eval=EvalSettings(samples=4)), TextAlone())
