"""Claim 36: rewards relative to their group's mean ascend the first terms of the logarithm of the success rate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.advantage import group_mean
from upslope.algo.family import REINFORCE
from upslope.algo.more_advantages import success_rate
from upslope.prove.claim import Check, Fact, at_least, claim, equal, vanishes
from upslope.prove.expect import expected
from upslope.prove.world import World
from upslope.prove.zscore import by_number_right, right_with
from upslope.types import given

MAX_RL = REINFORCE.patch(advantage=success_rate)


def first_terms(world: World, num: int) -> Tensor:
    """-sum_{k=1}^{num} (1 - p)^k / k, the first terms of log p, with gradient; p the success rate."""
    wrong = 1 - world.expected_reward()
    return -sum((wrong**k / k for k in range(1, num + 1)), torch.zeros((), dtype=torch.float64))


@claim(
    36,
    "max-rl",
    "(R - mean) / mean over G attempts ascends the first G - 1 terms of log p: the reward at G = 2, in the limit log p",
    source="arXiv 2602.02710",
    compares="expected gradients over every number of right attempts with the slope of the series; a group by hand",
)
def max_rl() -> Iterator[Check | Fact]:
    """With K of G right, E[1/G sum_i A_i grad log p(y_i) | K] = (1 - K/G) (grad p / p + grad p / (1 - p)), which is
    (1 - K/G) grad p / (p (1 - p)), for K >= 1 and 0 for K = 0. Its mean is (1 - (1 - p)^(G-1)) grad p / p.

    Only the right ones, R / mean, give grad p / p for any K >= 1: one term of the series more.
    """
    for p in (0.02, 0.3, 0.9):
        world = right_with(p)
        slope_W, likelihood_W = world.slope(world.expected_reward()), world.slope(world.expected_reward().log())
        for size in (2, 3, 8, 16):
            groups, prob_P = by_number_right(world, p, size)
            found_W = expected(world.learner(MAX_RL), groups, prob_P)
            yield equal(f"p = {p}, G = {size}: G - 1 terms", found_W, world.slope(first_terms(world, size - 1)))
            share = 1 - (1 - p) ** (size - 1)
            yield equal(f"p = {p}, G = {size}: a share of grad log p", found_W, share * likelihood_W)
            yield Fact(f"p = {p}, G = {size}: what grad p is multiplied by", share / p)
        groups, prob_P = by_number_right(world, p, 2)
        pair_W = expected(world.learner(MAX_RL), groups, prob_P)
        yield equal(f"p = {p}, G = 2: grad p itself", pair_W, slope_W)
    hard, easy = (1 - (1 - p) ** 15 for p in (0.02, 0.9))
    yield at_least("G = 16: a problem solved once in fifty over one solved nine in ten", hard / 0.02 / easy * 0.9, 10)
    yield from by_hand()


def by_hand() -> Iterator[Check | Fact]:
    """Groups of four: the group-mean's advantages, divided by its success rate; none where none is right."""
    groups, _ = by_number_right(right_with(0.5), 0.5, 4)
    for num, right, wrong in ((1, 3.0, -1.0), (2, 1.0, -1.0), (3, 1 / 3, -1.0)):
        batch = right_with(0.5).learner(MAX_RL).prepare([groups[num]])
        found_N = given(batch.advantage_NT, "advantage_NT")[:, 0]
        yield equal(
            f"{num} of 4 right", found_N, torch.tensor([right] * num + [wrong] * (4 - num), dtype=torch.float64)
        )
        plain = right_with(0.5).learner(REINFORCE.patch(advantage=group_mean)).prepare([groups[num]])
        mean_N = given(plain.advantage_NT, "advantage_NT")[:, 0]
        yield equal(f"{num} of 4 right: the group's weight is 4 / {num}", found_N, mean_N * 4 / num)
    none = right_with(0.5).learner(MAX_RL).prepare([groups[0]])
    yield vanishes("0 of 4 right: nobody is told anything", given(none.advantage_NT, "advantage_NT"))
