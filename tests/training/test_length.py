"""A run's length in passes over the data."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from given_texts import Given

from upslope.algo.codec import patched
from upslope.algo.family import FAMILY, GRPO
from upslope.algo.learnable import Learnable
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.training.checks import check_length
from upslope.training.conveniences import notes_on
from upslope.training.corpora import Text
from upslope.training.length import with_steps, with_steps_of_text
from upslope.training.named import open_run_task
from upslope.training.settings import RunSettings
from upslope.training.source import MixedDemonstrations, Shuffled
from upslope.training.start import launch
from upslope.training.tables import to_settings
from upslope.training.task_settings import TaskSettings
from upslope.training.view import NullView
from upslope.types import Problem


class Ten:
    """As many of each kind as its name says, and no more than what is asked of it here."""

    name = "ten"

    def problems(self, split: str) -> list[str]:
        return [f"{split} {i}" for i in range(10)]

    def demonstrations(self) -> list[str]:
        return [f"shown {i}" for i in range(9)]

    def documents(self) -> list[str]:
        return [f"text {i}" for i in range(8)]


def length(recipe: str, epochs: float, problems: int) -> RunSettings:
    settings = RunSettings(epochs=epochs, problems=problems)
    task: Task = Ten()  # type: ignore[assignment]
    return with_steps(settings, FAMILY[recipe].recipe, task)


@pytest.mark.parametrize(
    ("recipe", "epochs", "problems", "steps"),
    [
        ("grpo", 1, 3, 3),  # 10 problems are 3 whole steps of 3
        ("grpo", 2, 5, 4),
        ("sft", 1, 3, 3),  # 9 demonstrations
        ("sft", 0.5, 3, 2),  # ceil(1.5)
        ("pretrain", 3, 2, 12),  # 8 documents
    ],
)
def test_epochs_become_the_steps_of_so_many_passes(recipe: str, epochs: float, problems: int, steps: int) -> None:
    found = length(recipe, epochs, problems)
    assert (found.steps, found.epochs) == (steps, 0)


def test_epochs_of_text_count_its_tokens_in_blocks() -> None:
    text = Text((Given([[1] * 30, [2] * 50, [3] * 20], held_out=[2]),), (1.0,))
    settings = RunSettings(epochs=2, problems=3, task=TaskSettings(text=("a.txt",)))
    recipe = patched(FAMILY["pretrain"].recipe, {"sample": {"block": 8}})
    assert with_steps(settings, recipe, Ten()) == settings  # type: ignore[arg-type]
    found = with_steps_of_text(settings, recipe, text, 64)
    assert (found.steps, found.epochs) == (7, 0)  # ceil(2 x 80 / (3 x 8))


def test_epochs_of_what_has_no_pass_are_refused() -> None:
    blocks = patched(FAMILY["pretrain"].recipe, {"sample": {"block": 8}})
    with pytest.raises(UserError, match="in blocks; give steps"):
        with_steps(RunSettings(epochs=1), blocks, Ten())  # type: ignore[arg-type]
    drawn = GRPO.patch(sample=Learnable())
    with pytest.raises(UserError, match="learnable, which makes no passes over the data; give steps"):
        with_steps(RunSettings(epochs=3, problems=2), drawn, Ten())  # type: ignore[arg-type]
    weighted = RunSettings(epochs=1, task=TaskSettings(text=("a.txt",), text_weights=(1.0,)))
    with pytest.raises(UserError, match="by weights no source is read once a pass"):
        with_steps_of_text(weighted, blocks, Text((Given([[1]]),), (1.0,)), 64)


def test_the_steps_of_a_pass_see_every_item_once() -> None:
    found, pool = length("sft", 1, 3), Shuffled(Ten().demonstrations(), 0, "demonstrations")
    seen = [item for step in range(found.steps) for item in pool.take(step, 3)]
    assert sorted(seen) == Ten().demonstrations()


def test_a_pass_over_several_data_sets_leaves_none_of_them_out() -> None:
    settings = RunSettings(epochs=2, problems=4, task=TaskSettings(data="a", also=("b",)))
    found = with_steps(settings, FAMILY["sft"].recipe, Ten())  # type: ignore[arg-type]
    assert found.steps == 5  # ceil(2 x 9 / 4)
    rows = [[Problem(f"{name}{i}", ()) for i in range(num)] for name, num in (("a", 20), ("b", 6), ("c", 3))]
    shares = [(len(each) / 29, each) for each in rows]
    for seed in range(5):
        mixture = MixedDemonstrations(shares, seed)
        drawn = [problem.id for step in range(3 * 29) for problem in mixture.take(step, 1)]
        for begin in range(0, len(drawn), 29):
            assert len(set(drawn[begin : begin + 29])) == 29


def test_epochs_of_data_sets_with_weights_are_refused() -> None:
    settings = RunSettings(epochs=1, problems=4, task=TaskSettings(data="a", also=("b",), weights=(1.0, 9.0)))
    with pytest.raises(UserError, match=r"epochs and task\.weights: by weights no data set is read once a pass"):
        with_steps(settings, FAMILY["sft"].recipe, Ten())  # type: ignore[arg-type]
    assert with_steps(settings, FAMILY["grpo"].recipe, Ten()).steps == 2  # type: ignore[arg-type]


def test_a_pass_without_a_whole_step_is_refused() -> None:
    with pytest.raises(UserError, match="a step takes 11 training problems of 10, so no pass over them has a whole"):
        length("grpo", 1, 11)


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_epochs_of_rows_that_may_be_dropped_wait_until_it_is_known_which_are_left(how: Any) -> None:
    settings = RunSettings(epochs=1, problems=4, task=TaskSettings(data="a", too_long=how))
    task: Task = Ten()  # type: ignore[assignment]
    assert with_steps(settings, FAMILY["sft"].recipe, task) == settings
    found = with_steps(settings, FAMILY["sft"].recipe, task, left=True)
    assert (found.steps, found.epochs) == (2, 0)


def test_a_critics_warm_up_is_not_held_against_a_length_that_is_not_known_yet() -> None:
    recipe = patched(FAMILY["ppo"].recipe, {"critic": {"warmup": 9999}})
    waits = RunSettings(epochs=1, problems=64, recipe={"name": "ppo"})
    check_length(waits, recipe)
    with pytest.raises(UserError, match="the policy would never learn"):
        check_length(replace(waits, epochs=0), recipe)


def test_a_run_keeps_the_steps_that_its_epochs_became(tmp_path: Path) -> None:
    given = ["epochs=1e-9", "recipe=sft", "model=pocket:blank", "eval.problems=0", f"out={tmp_path}", "name=run"]
    folder = launch(load_settings(None, given), NullView)
    document = tomllib.loads((folder / "run.toml").read_text())
    assert (document["steps"], document["epochs"]) == (1, 0.0)
    assert load_settings(folder / "run.toml").steps == 1


@pytest.mark.parametrize(
    ("steps", "learn", "told"),
    [
        (3, {"warmup": 12}, "the learning rate only rises, to 25% of learn.lr; raise steps"),
        (3, {"decay": "cosine"}, "to 30% of learn.lr, and learn.decay = 'cosine' never begins; raise steps"),
        (12, {"warmup": 12, "decay": "wsd"}, "to 100% of learn.lr, and learn.decay = 'wsd' never begins"),
        (12, {"warmup": 12}, ""),
        (13, {"warmup": 12, "decay": "wsd"}, ""),
        (3, {}, ""),  # nobody set anything
    ],
)
def test_a_warmup_that_outlasts_the_run_is_told(steps: int, learn: dict[str, object], told: str) -> None:
    task, settings = open_run_task(TaskSettings("pocket"), 0), to_settings({"steps": steps, "learn": learn})
    (*_, note) = "", *notes_on(task, FAMILY["sft"].recipe, settings)
    assert told in note and bool(note) == bool(told)
    assert notes_on(task, FAMILY["trpo"].recipe, settings) == []  # its steps have no rate
