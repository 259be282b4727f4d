"""Credit by turn: compared with the same turn of the others, and with leave-one-out where attempts have one turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from upslope.algo.advantage import leave_one_out
from upslope.algo.codec import patched
from upslope.algo.recipe import Recipe
from upslope.algo.turn_advantage import ByTurn
from upslope.learn.prepare import to_batch
from upslope.types import Batch, Group, Problem, Rollout, Score


def attempt(sample: int, rewards: list[list[float]], problem: str = "a") -> Rollout:
    """Turns of two chosen tokens with a reward each, and a token of the world's between turns."""
    by_token: list[float] = []
    mask: list[bool] = []
    turns = []
    for number, earned in enumerate(rewards):
        if number:
            by_token, mask = [*by_token, 0.0], [*mask, False]
            turns.append(len(mask))
        by_token, mask = [*by_token, *earned], [*mask, *[True] * len(earned)]
    response = tuple(range(3, 3 + len(mask)))
    score = Score(0.0, by_token=tuple(by_token))
    return Rollout(
        problem, sample, (1,), response, tuple(mask), (0.0,) * len(mask), 0, "stop", "", score, turns=tuple(turns)
    )


def batch(*rollouts: Rollout) -> Batch:
    named: dict[str, list[Rollout]] = {}
    for r in rollouts:
        named.setdefault(r.problem_id, []).append(r)
    return to_batch([Group(Problem(n, ()), tuple(g)) for n, g in named.items()], torch.device("cpu"), torch.float64)


THREE = (
    attempt(0, [[0.0, 1.0], [0.0, 2.0], [0.0, 8.0]]),
    attempt(1, [[0.0, 3.0], [1.0, 0.0]]),
    attempt(2, [[0.0, 0.0]]),
    attempt(0, [[5.0, 0.0]], problem="b"),
)
"""To go: 11, 10, 8; then 4, 1; then 0; and another problem's, alone."""


def test_a_turn_is_compared_with_the_same_turn_of_the_others() -> None:
    """Turn 0: 11 - 2, 4 - 5.5, 0 - 7.5; turn 1: 10 - 1 and 1 - 10; turn 2 is alone with its 8, and so is problem b."""
    found = ByTurn()(batch(*THREE))
    assert found.tolist() == [
        [9.0, 9.0, 0.0, 9.0, 9.0, 0.0, 8.0, 8.0],
        [-1.5, -1.5, 0.0, -9.0, -9.0, 0.0, 0.0, 0.0],
        [-7.5, -7.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [5.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]


def test_gamma_counts_turns_and_not_tokens() -> None:
    """Turn 0 of the first: 1 + 0.5 (2 + 0.5 8) = 4, of the second 3 + 0.5 = 3.5, of the third 0."""
    found = ByTurn(gamma=0.5)(batch(*THREE))
    assert found[:3, 0].tolist() == [4 - 1.75, 3.5 - 2, -3.75]


def test_the_deviation_is_the_turn_s_own() -> None:
    """Of 10 and 1 in turn 1: mean 5.5, deviation 4.5 over both, sqrt(2) times that over one less."""
    for std, size in (("population", 4.5), ("sample", 4.5 * 2**0.5)):
        found = ByTurn(std=std, eps=0.0)(batch(*THREE))  # type: ignore[arg-type]
        assert found[:2, 3].tolist() == pytest.approx([4.5 / size, -4.5 / size])
        assert found[0, 6] == 0 and found[3, 0] == 0


def test_attempts_of_one_turn_are_left_one_out() -> None:
    one = [replace(r, turns=()) for r in THREE[:3]]
    torch.testing.assert_close(ByTurn()(batch(*one)), leave_one_out(batch(*one)))


def test_other_turns_and_padding_do_not_reach_into_a_turn() -> None:
    """Whatever was earned before a turn changes nothing of it."""
    other = (attempt(0, [[9.0, -4.0], [0.0, 2.0], [0.0, 8.0]]), *THREE[1:])
    before, after = ByTurn()(batch(*THREE)), ByTurn()(batch(*other))
    assert torch.equal(before[0, 3:], after[0, 3:]) and not torch.equal(before[0, :2], after[0, :2])


def test_it_has_a_name_in_run_files() -> None:
    assert patched(Recipe(), {"advantage": {"kind": "by_turn", "gamma": 0.9}}).advantage == ByTurn(gamma=0.9)
    with pytest.raises(ValueError, match="gamma"):
        ByTurn(gamma=1.5)
