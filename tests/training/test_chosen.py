"""Fewer problems than there are: a sample of all of them, the same in every run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from upslope.tasks.pocket_problems import open_pocket
from upslope.training.chosen import chosen_problems
from upslope.training.held_out import held_out_problems
from upslope.training.settings import EvalSettings, RunSettings
from upslope.types import Problem

PROBLEMS = [Problem(f"mine/{i}", ({"role": "user", "content": str(i)},)) for i in range(1000)]


def of(problems: list[Problem], *, independent: bool = False) -> Any:
    return SimpleNamespace(problems=lambda split: problems, independent=independent)


def places(found: list[Problem]) -> list[int]:
    return [int(p.id.removeprefix("mine/")) for p in found]


def test_they_lie_everywhere() -> None:
    found = places(chosen_problems(of(PROBLEMS), 200))
    assert len(set(found)) == 200 and found == sorted(found)
    quarters = [sum(low <= place < low + 250 for place in found) for low in range(0, 1000, 250)]
    assert min(quarters) > 30  # 50 expected; a fixed function of the ids, so no matter of luck


def test_more_of_them_hold_the_fewer() -> None:
    assert set(places(chosen_problems(of(PROBLEMS), 50))) < set(places(chosen_problems(of(PROBLEMS), 60)))


def test_a_problem_is_chosen_by_its_own_address() -> None:
    few = PROBLEMS[:100]
    assert set(chosen_places := places(chosen_problems(of(few[::-1]), 10))) == set(places(chosen_problems(of(few), 10)))
    assert chosen_places == sorted(chosen_places, reverse=True)  # in the task's order


def test_enough_is_all() -> None:
    assert chosen_problems(of(PROBLEMS), 1000) == chosen_problems(of(PROBLEMS), 5000) == PROBLEMS


def test_independent_problems_come_as_they_are() -> None:
    assert places(chosen_problems(of(PROBLEMS, independent=True), 3)) == [0, 1, 2]
    assert open_pocket().independent


def test_a_runs_evaluations_take_them_whatever_its_seed() -> None:
    found = [held_out_problems(RunSettings(seed=seed, eval=EvalSettings(problems=7)), of(PROBLEMS)) for seed in (0, 1)]
    assert found[0] == found[1] == chosen_problems(of(PROBLEMS), 7) != PROBLEMS[:7]
