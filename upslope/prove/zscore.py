"""Claim 29: what the z-score of a group multiplies the gradient by, in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch

from upslope.algo.advantage import GroupZScore, group_mean, leave_one_out
from upslope.algo.family import REINFORCE
from upslope.prove.claim import Check, Fact, at_least, claim, equal
from upslope.prove.expect import expected
from upslope.prove.world import World, toy
from upslope.types import Group, Problem, given

Deviation = Literal["sample", "population"]


def multiple(p: float, size: int, std: Deviation = "sample", eps: float = 0.0) -> float:
    """c_G(p) = E_K[ K (G - K) / (G^2 (sd_K + eps)) ] / (p (1 - p)), K ~ Binomial(G, p) of the G attempts right and sd_K
    their deviation: sqrt(K (G - K) / (G (G - 1))) for ``sample``, sqrt(K (G - K)) / G for ``population``.

    Given the rewards, E[score | R = 1] = grad p / p and E[score | R = 0] = -grad p / (1 - p), and an attempt has the
    advantage (1 - K/G) / sd or -(K/G) / sd; their sum over the group, over G, is the summand times grad p.
    """
    total = 0.0
    for k in range(1, size):
        deviation = math.sqrt(k * (size - k) / (size * (size - 1) if std == "sample" else size**2))
        total += chance(k, p, size) * k * (size - k) / (size**2 * (deviation + eps))
    return total / (p * (1 - p))


def chance(k: int, p: float, size: int) -> float:
    """Of k right ones among ``size`` attempts."""
    return math.comb(size, k) * p**k * (1 - p) ** (size - k)


def right_with(p: float) -> World:
    """A world of two responses, one of them right, with probability p."""
    world = toy(limit=1, vocabulary=2)
    with torch.no_grad():
        model = world.policy.model
        hidden_D = model.base_model(torch.tensor([world.prompt])).last_hidden_state[0, -1]
        logp_V = torch.tensor([1 - p, p], dtype=torch.float64).log()
        model.head.phi.copy_(logp_V[:, None] * hidden_D / hidden_D.square().sum())
    return world.rewarding(torch.tensor([0.0, 1.0], dtype=torch.float64))


def by_number_right(world: World, p: float, size: int) -> tuple[list[Group], torch.Tensor]:
    """One group for every number of right attempts, and its probability: their order does not matter."""
    wrong, right = world.rollouts()
    groups = [Group(Problem(f"{k} of {size}", ()), (right,) * k + (wrong,) * (size - k)) for k in range(size + 1)]
    return groups, torch.tensor([chance(k, p, size) for k in range(size + 1)], dtype=torch.float64)


@claim(
    29,
    "z-score-multiple",
    "With 0/1 rewards the z-score multiplies a problem's gradient by c_G(p): most where nearly all or none are right",
    source="arXiv 2402.03300, section 4.1.2; arXiv 2503.20783, section 3.1",
    compares="expected gradients over every number of right attempts with a closed form times grad p; a group by hand",
)
def z_score_multiple() -> Iterator[Check | Fact]:
    """E[1/G sum_i A_i grad log p(y_i)] = c_G(p) grad p. For G = 2 it is 1/sqrt 2 whatever p is; for large G it tends to
    1 / sqrt(p (1 - p)), the deviation of a single attempt."""
    for p in (0.02, 0.1, 0.5, 0.9):
        world = right_with(p)
        slope_W = world.slope(world.expected_reward())
        yield equal(f"p = {p}: the success rate", world.expected_reward().detach(), p)
        for size in (2, 8, 16):
            groups, prob_P = by_number_right(world, p, size)
            for std, eps in (("sample", 0.0), ("population", 0.0), ("sample", 0.1)):
                kind = GroupZScore(eps=eps, std=std)  # type: ignore[arg-type]
                factor = multiple(p, size, std, eps)  # type: ignore[arg-type]
                found_W = expected(world.learner(REINFORCE.patch(advantage=kind)), groups, prob_P)
                yield equal(f"p = {p}, G = {size}, {std}, eps {eps}: c_G(p) grad p", found_W, factor * slope_W)
            yield Fact(f"p = {p}, G = {size}: c_G(p)", multiple(p, size))
            mean_W = expected(world.learner(REINFORCE.patch(advantage=group_mean)), groups, prob_P)
            yield equal(f"p = {p}, G = {size}, the mean alone: (1 - 1/G) grad p", mean_W, (1 - 1 / size) * slope_W)
    for p in (0.02, 0.5):
        yield equal(f"p = {p}, G = 2: 1/sqrt 2", multiple(p, 2), math.sqrt(0.5))
    yield at_least(
        "G = 16: a problem solved once in fifty over one solved half the time",
        multiple(0.02, 16) / multiple(0.5, 16),
        1.8,
    )
    yield from sixteen()


def sixteen() -> Iterator[Check | Fact]:
    """One group of 16, by hand: the rarer outcome is pushed the harder."""
    world = right_with(0.5)
    for num in (1, 14):
        groups, _ = by_number_right(world, 0.5, 16)
        for name, kind, scale in (
            ("mean", group_mean, 1.0),
            ("leave-one-out", leave_one_out, 16 / 15),
            ("z-score", GroupZScore(eps=0.0), 1 / math.sqrt(num * (16 - num) / (16 * 15))),
            ("z-score, population", GroupZScore(eps=0.0, std="population"), 1 / math.sqrt(num * (16 - num) / 256)),
        ):
            batch = world.learner(REINFORCE.patch(advantage=kind)).prepare([groups[num]])
            by_hand = torch.tensor([(16 - num) / 16] * num + [-num / 16] * (16 - num), dtype=torch.float64) * scale
            found_N = given(batch.advantage_NT, "advantage_NT")[:, 0]
            yield equal(f"{num} of 16 right, {name}: {by_hand[0]:.4g} and {by_hand[-1]:.4g}", found_N, by_hand)
            yield Fact(f"{num} of 16 right, {name}: a right one", float(found_N[0]))
            yield Fact(f"{num} of 16 right, {name}: a wrong one", float(found_N[-1]))
