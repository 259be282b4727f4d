"""Claim 41: credit by turn, where a world replies at random and every turn earns something."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.family import REINFORCE, RLOO
from upslope.algo.turn_advantage import ByTurn
from upslope.prove.baseline import variance
from upslope.prove.claim import Check, Fact, claim, equal
from upslope.prove.expect import each_gradient
from upslope.prove.replies import Attempt, log_chances, told, written
from upslope.prove.world import World, numbers, toy
from upslope.types import Group, Problem, Rollout, Score, given

TurnRewards = dict[tuple[int, ...], float]
"""What a turn earns, by all tokens up to its end."""


@claim(
    41,
    "turn-credit",
    "What is earned from a turn on, less the other attempts' of that turn, has the gradient of expected reward",
    source="Sutton & Barto 2018, section 13.2 (causality); arXiv 2402.14740, section 3.2, turn by turn",
    compares="advantages and expected gradients over all pairs of attempts with sums by hand and the slope of reward",
)
def turn_credit() -> Iterator[Check | Fact]:
    """E[sum_k (G_k - b_k) grad log pi(turn k)] = grad E[sum_k R_k], for any b_k of other attempts: what was earned
    before a turn does not depend on it. Whether it scatters less depends on the world."""
    world = toy(limit=3)
    attempts = tuple(written(world, (), (), 1.0))
    earned = turn_rewards(attempts)
    rollouts = [paid(world, number, attempt, earned) for number, attempt in enumerate(attempts)]
    logp_A, chance_A = log_chances(world, attempts)
    prob_A = (logp_A.exp() * chance_A).detach()
    total_A = torch.tensor([sum(r.score.by_token or ()) for r in rollouts], dtype=torch.float64)
    truth_W = world.slope((logp_A.exp() * chance_A * total_A).sum())
    yield Fact("attempts", len(attempts))
    yield Fact("of them with several turns", sum(bool(r.turns) for r in rollouts))
    pairs = [[rollouts[i], rollouts[j]] for i, j in itertools.product(range(len(attempts)), repeat=2)]
    prob_P = (prob_A[:, None] * prob_A).flatten()
    groups = [Group(Problem(f"world/{n}", ()), tuple(pair)) for n, pair in enumerate(pairs)]
    learner = world.learner(REINFORCE.patch(advantage=ByTurn()))
    found_NT = given(learner.prepare(groups).advantage_NT, "advantage_NT")
    yield equal("advantages", found_NT, by_hand(pairs, found_NT.shape[1]))
    gradient_PW = each_gradient(learner, groups)
    yield equal("grad J", prob_P @ gradient_PW, truth_W)
    whole_PW = each_gradient(world.learner(RLOO), groups)
    yield equal("leave_one_out, whole attempts: grad J too", prob_P @ whole_PW, truth_W)
    spread = [variance(each, prob_P) for each in (gradient_PW, whole_PW)]
    yield Fact("variance, by turn", spread[0])
    yield Fact("variance, whole attempts", spread[1])
    single = [Group(g.problem, tuple(replace(r, turns=()) for r in g.rollouts)) for g in groups]
    one_NT, loo_NT = (
        given(world.learner(RLOO.patch(advantage=advantage)).prepare(single).advantage_NT, "advantage_NT")
        for advantage in (ByTurn(), RLOO.advantage)
    )
    yield equal("attempts of one turn: leave_one_out", one_NT, loo_NT)


def begins(mask: Sequence[bool]) -> tuple[int, ...]:
    """Where a turn begins: the first choice after a reply."""
    return tuple(t for t in range(1, len(mask)) if mask[t] and not mask[t - 1])


def ends(mask: Sequence[bool]) -> list[int]:
    """The last choice of every turn."""
    last = len(mask) - 1
    return [t for t in range(len(mask)) if mask[t] and (t == last or not mask[t + 1])]


def turn_rewards(attempts: Sequence[Attempt]) -> TurnRewards:
    """An arbitrary number for every turn that can end, of what stands there by then alone."""
    reached = dict.fromkeys(tokens[: end + 1] for tokens, mask, _ in attempts for end in ends(mask))
    return dict(zip(reached, numbers(len(reached), seed=6).tolist(), strict=True))


def paid(world: World, number: int, attempt: Attempt, earned: TurnRewards) -> Rollout:
    """The attempt with its turns, and a reward at the end of each."""
    tokens, mask, _ = attempt
    by_token = [0.0] * len(tokens)
    for end in ends(mask):
        by_token[end] = earned[tokens[: end + 1]]
    rollout = told(world, number, attempt, torch.zeros(number + 1, dtype=torch.float64))
    return replace(rollout, turns=begins(mask), score=Score(0.0, by_token=tuple(by_token)))


def by_hand(pairs: Sequence[Sequence[Rollout]], width: int) -> Tensor:
    """The same with plain lists."""
    found = []
    for pair in pairs:
        to_go = []
        for rollout in pair:
            starts = [0, *rollout.turns, len(rollout.response)]
            each = [sum((rollout.score.by_token or ())[a:b]) for a, b in itertools.pairwise(starts)]
            to_go.append([sum(each[k:]) for k in range(len(each))])
        for mine, (own, other) in enumerate((to_go, to_go[::-1])):
            less = [g - other[k] if k < len(other) else g for k, g in enumerate(own)]
            row = [
                less[sum(t >= begin for begin in pair[mine].turns)] if chosen else 0.0
                for t, chosen in enumerate(pair[mine].mask)
            ]
            found.append([*row, *[0.0] * (width - len(row))])
    return torch.tensor(found, dtype=torch.float64)
