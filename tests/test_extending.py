"""The examples of docs/extending.md: slots, a task and a sampler, each a file outside the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from naive import flat
from tiny import TOKENIZER, drawn, model as tiny_model, policy, problems

import upslope as up
from upslope.plugins import load_object
from upslope.rollout.address import Address
from upslope.types import Sampling

HERE = Path(__file__).resolve().parents[1] / "examples" / "extending"
QUICK: dict[str, Any] = {
    "problems": 4,
    "eval": {"problems": 2},
    "sample": {"max_tokens": 6},
    "learn": {"lr": 1e-3, "dtype": "float32"},
    "progress": False,
    "steps": 2,
}


def tiny() -> tuple[Any, Any]:
    return tiny_model(dtype=torch.float32), TOKENIZER


def named(file: str, name: str) -> Any:
    return load_object(f"{HERE / file}:{name}", "example")


def test_slots_of_ones_own_train_and_are_written_down(tmp_path: Path) -> None:
    task, mine = named("task.py", "LastLetters")(), named("slots.py", "MINE")
    run = up.train(tiny(), task=task, recipe=mine, folder=tmp_path / "a", **QUICK)
    attempts = run.rollouts(1)
    assert {a for row in attempts if row["kept"] for a in row["advantage"]} <= {0.0, 1.0}
    assert 0 < run.rows()[-1]["correction_mean"] < 1
    told = (tmp_path / "a" / "run.toml").read_text()
    for name in ("best_of_group", "TanhRatio", "RarestTokens"):
        assert f"slots.py:{name}" in told


def test_a_slot_by_its_file_from_the_command_lines_own_table(tmp_path: Path) -> None:
    recipe = {"name": "grpo", "surrogate": {"kind": f"{HERE / 'slots.py'}:TanhRatio", "width": 0.1}}
    run = up.train(tiny(), task=named("task.py", "LastLetters")(), recipe=recipe, folder=tmp_path / "a", **QUICK)
    assert run.recipe.surrogate.width == 0.1  # type: ignore[attr-defined]


def test_a_task_of_ones_own_pays_on_the_way() -> None:
    task = named("task.py", "LastLetters")(words=2)
    (problem,) = task.problems("test")[:1]
    wrong, right = task.score([problem] * 2, [problem.truth[0] + "?", problem.truth])
    assert (wrong.reward, wrong.steps) == (0.0, ((1, 0.1),))
    assert (right.reward, right.steps) == (1.0, ((1, 0.1), (2, 0.1)))
    run = up.train(tiny(), task=task, recipe=up.REINFORCE, **QUICK)
    assert len(run.rows()) == 2


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=6), Sampling(0.7, max_tokens=5, min_tokens=2)])
def test_a_sampler_of_ones_own_writes_what_this_process_writes(sampling: Sampling) -> None:
    subject, asked, here = policy(), problems(3), Address(0, "sample", 5)
    own = drawn(subject, asked, 2, sampling, here, by=named("sampler.py", "PlainSampler")(subject))
    expected = drawn(subject, asked, 2, sampling, here)
    for mine, theirs in zip(flat(own), flat(expected), strict=True):
        assert (mine.response, mine.ended, mine.text) == (theirs.response, theirs.ended, theirs.text)
        assert mine.logp == pytest.approx(theirs.logp, abs=1e-9)


def test_a_run_with_a_sampler_of_ones_own_is_the_run_without(tmp_path: Path) -> None:
    task, plain = named("task.py", "LastLetters")(), named("sampler.py", "PlainSampler")
    one, other = (up.train(tiny(), task=task, recipe=up.GRPO, sampler=sampler, **QUICK) for sampler in (plain, None))
    assert [r["response"] for r in one.rollouts(1)] == [r["response"] for r in other.rollouts(1)]
    assert {r["version"] for r in one.rollouts(1)} == {1}


def test_examples_leave_nothing_behind() -> None:
    assert not [name for name in sys.modules if name.startswith("examples.")]
