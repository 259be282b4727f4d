"""A run that broke off and went on is the run that did not, bit for bit, with every setting that says which rows there
are, in what order, where attempts end, what they may call, and how long the run is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import pytest
import torch
from left_by import journal, tensors

from upslope.config import load_settings
from upslope.learn.learner import Learner
from upslope.record.best import best_step
from upslope.record.checkpoint import newest
from upslope.tasks.tools import worlds
from upslope.tasks.tools.calls import Call
from upslope.training.settings import RunSettings
from upslope.training.start import TrainStage, launch
from upslope.training.view import NullView

MINE = '''
def odd(completions, **columns):
    return [float(sum(map(ord, str(text))) % 2) for text in completions]


def add(a: int, b: int) -> int:
    """
    Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


class Counter:
    """Begins where its row says, and pays for every call."""

    def reset(self, start=0, **columns):
        self.count = start
        return f" It stands at {start}."

    def raise_by(self, step: int) -> str:
        """
        Raise the counter.

        Args:
            step: By how much.
        """
        self.count += step
        return f"It stands at {self.count}."

    def get_reward(self) -> float:
        return float(self.count % 3)
'''
ROWS = [
    {"prompt": f"{name} has {i} apples." + " pens" * (i % 5), "completion": "5 apples.", "start": i}
    for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 4)
]
LONG = [{"prompt": "pens " * (300 + i), "completion": "9", "start": 0} for i in range(2)]
PAYS = ['task.rewards=["mine.py:odd"]', "recipe=reinforce", "recipe.sample.group_size=4"]
LOOKS = ["eval.problems=2", "eval.every=1"]
STEPS = "steps=4"
CARRIED: dict[str, list[str]] = {
    "stop strings": [*PAYS, STEPS, 'sample.stop=["e", "a"]'],
    "the order of the file": [*PAYS, STEPS, "sample.order=file"],
    "the order of the file, imitated": ["recipe=sft", STEPS, "sample.order=file", "problems=3"],
    "tools": [*PAYS, STEPS, 'task.tools=["mine.py:add"]', "task.max_turns=2", "sample.max_tokens=48"],
    "an environment": [
        *PAYS[1:],
        STEPS,
        "task.environment=mine.py:Counter",
        "task.max_turns=3",
        "sample.max_tokens=48",
    ],
    "lengths of prompts": [*PAYS, STEPS, "task.min_prompt_tokens=7", "task.max_prompt_tokens=9"],
    "rows that are left out": [*PAYS, STEPS, "task.too_long=drop"],
    "rows that are left out, by what is known of them": [
        *PAYS[:1],
        *("recipe=reinforce-baseline", "recipe.sample.kind=learnable", "recipe.sample.group_size=4"),
        *(STEPS, "task.too_long=drop"),
    ],
    "rows that are shortened": [*PAYS, STEPS, "task.too_long=truncate", "sample.order=file", "problems=5"],
    "demonstrations that are shortened": ["recipe=sft", STEPS, "task.too_long=truncate", "problems=9"],
    "patience": [*PAYS, "steps=9", *LOOKS, "task.right=99", "eval.patience=3"],
    "the best": [*PAYS, STEPS, *LOOKS, "save.best=true", "save.every=1", "save.keep=1"],
    "passes": [*PAYS, "epochs=0.5", "learn.decay=linear"],
    "passes over the rows that are left": [*PAYS, "epochs=0.5", "learn.decay=linear", "task.too_long=drop"],
    "passes over prompts of some lengths": [*PAYS, "epochs=0.6", "learn.decay=cosine", "task.max_prompt_tokens=9"],
}
QUICK = ("an environment", "rows that are shortened", "patience", "passes over the rows that are left")
NUM_STEPS = {"patience": 3}
"""Where they are not 4."""


class Defect(BaseException):
    """Something that nobody foresaw."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    naive.policy(0, torch.float32).save(Path("model"))  # some attempts end by themselves, and a world may answer
    return tmp_path


def rows(*, long: bool) -> None:
    """The data, with rows that are too long where something is to become of them."""
    Path("rows").mkdir()
    train = [*LONG, *ROWS] if long else ROWS
    for side, found in (("train", train), ("test", ROWS[:4])):
        Path("rows", f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def settings_of(name: str, extra: list[str]) -> RunSettings:
    settings = [
        *("model=model", "task.data=rows", "problems=2", "eval.problems=0", "sample.max_tokens=6", "save.every=0"),
        *("learn.lr=0.01", "learn.warmup=0", "device=cpu", "threads=1", "learn.measure_every=0"),
    ]
    named = {text.partition("=")[0] for text in extra}
    settings = [text for text in settings if text.partition("=")[0] not in named]
    return load_settings(None, [*settings, *extra], {"name": name})


def run(name: str, extra: list[str], *, resume: bool = False) -> Path:
    return launch(settings_of(name, extra), NullView, resume=resume)


def breaking_off(at: int) -> Callable[..., Any]:
    """``Learner.prepare``, which raises in its call of this number."""
    prepare, calls = Learner.prepare, 0

    def counted(self: Learner, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Defect
        return prepare(self, *args, **kwargs)

    return counted


def calls_in(text: str) -> list[Call]:
    """A random model writes no call: every text of odd length is one here."""
    return [Call("add", {"a": 1, "b": 2}), Call("raise_by", {"step": 2})] if len(text) % 2 else []


@pytest.mark.parametrize("what", [pytest.param(w, marks=[] if w in QUICK else pytest.mark.slow) for w in CARRIED])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(worlds, "calls_in", calls_in)
    extra = CARRIED[what]
    rows(long=any("too_long" in text for text in extra))
    whole = run("whole", extra)
    with monkeypatch.context() as broken:
        broken.setattr(Learner, "prepare", breaking_off(3))
        with pytest.raises(Defect):
            run("broken", extra)
    saved = newest(folder / "runs" / "broken" / "checkpoints")
    assert saved is not None and saved.step == 2
    resumed = run("broken", extra, resume=True)
    steps = [row for row in journal(whole) if row["kind"] == "step"]
    assert journal(resumed) == journal(whole) and len(steps) == NUM_STEPS.get(what, 4)
    first, second = tensors(whole), tensors(resumed)
    assert first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())
    assert best_step(whole) == best_step(resumed) and (best_step(whole) is None) == (what != "the best")
    assert any(row["kind"] == "rows" for row in journal(whole)) == any("too_long" in text for text in extra)
    if "tools" in what or "environment" in what:
        assert max(float(str(row["turns"])) for row in steps) > 1


def test_a_stage_of_a_pipeline_that_goes_on_is_as_long_as_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra, stage = CARRIED["passes over the rows that are left"], TrainStage()
    rows(long=True)
    settings = settings_of("stage", extra)
    stage.check(settings)
    with monkeypatch.context() as broken:
        broken.setattr(Learner, "prepare", breaking_off(3))
        with pytest.raises(Defect):
            stage.perform(settings, NullView, resume=False)
    begun = stage.document(settings)
    stage.perform(settings, NullView, resume=True)
    assert stage.document(settings) == begun and (begun["epochs"], begun["steps"]) == (0.5, 150)  # as it was given
    assert journal(folder / "runs" / "stage") == journal(run("whole", extra))
