"""Claim 28: what overlong filtering does to the incentive to finish."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import leave_one_out
from upslope.algo.family import REINFORCE
from upslope.algo.sample import Attempts
from upslope.learn.prepare import weigh
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal
from upslope.prove.expect import gradient, in_expectation, joined, prepared
from upslope.prove.world import World, toy

FILTERED = REINFORCE.patch(advantage=leave_one_out, sample=Attempts(group_size=2, drop_truncated=True))


def finishing(world: World) -> Tensor:
    """P(stop): the chance that an attempt ends by itself, with gradient."""
    return (world.prob_Y() * stopped(world)).sum()


def stopped(world: World) -> Tensor:
    """1 where a response ended by itself, Y."""
    return torch.tensor([float(world.ended(r) == "stop") for r in world.responses], dtype=torch.float64)


def only_if_finished(world: World) -> World:
    """No reward for an attempt that was cut: reward 0 or 1 for the others."""
    return world.rewarding((world.reward_Y > 0).double() * stopped(world))


@claim(
    28,
    "overlong-filter",
    "Leaving out attempts that were cut gives grad J - J grad P(stop): it weakens the incentive to finish",
    source="arXiv 2503.14476, section 3.4; arXiv 2402.14740, section 3.2",
    compares="expected gradients of filtered groups with grad J, grad P(stop) and J, exactly",
)
def overlong_filter() -> Iterator[Check | Fact]:
    """With leave-one-out A_i = R_i - b_i, b_i independent of y_i and E[b_i] = J:

        E[stop A grad log p] = grad E[R stop] - J grad P(stop).

    If what is cut earns nothing, E[R stop] = J. A learner counts the kept attempts alone, so over many
    groups a step is 1 / P(stop) times that."""
    world = only_if_finished(toy())
    slope_W, stop_W = world.slope(world.expected_reward()), world.slope(finishing(world))
    reward, stop = float(world.expected_reward().detach()), float(finishing(world).detach())
    whole_W = over_groups(world, drop=False)
    yield equal("nothing filtered: grad J", whole_W, slope_W)
    found_W = over_groups(world, drop=True)
    yield equal("filtered: grad J - J grad P(stop)", found_W, slope_W - reward * stop_W)
    for name, vector_W in (("unfiltered", slope_W), ("filtered", found_W)):
        yield Fact(f"{name}: P(stop) rises at the rate", float(vector_W @ stop_W))
    lost = float((slope_W - found_W) @ stop_W)
    yield equal("the incentive to finish falls by J |grad P(stop)|^2", lost, reward * stop_W.square().sum())
    yield at_least("which is something", lost, 1e-3)
    yield at_most("filtered: the incentive is the weaker one", float(found_W @ stop_W), float(slope_W @ stop_W))
    yield Fact("J", reward)
    yield Fact("P(stop)", stop)
    yield Fact("filtered: degrees off grad J", angle(found_W, slope_W))
    rest = toy()
    general_W = rest.slope((rest.prob_Y() * rest.reward_Y * stopped(rest)).sum())
    general_W = general_W - rest.expected_reward().detach() * rest.slope(finishing(rest))
    yield equal("arbitrary rewards: grad E[R stop] - J grad P(stop)", over_groups(rest, drop=True), general_W)
    yield from one_group_a_step(world, slope_W)


def over_groups(world: World, *, drop: bool) -> Tensor:
    """The expected gradient over every pair, an attempt counting 1/2 whether or not others were left out."""
    groups, prob_P = world.groups(2)
    learner = world.learner(FILTERED if drop else FILTERED.patch(sample=Attempts(group_size=2)))
    batch = prepared(learner, groups)
    even_NT = torch.full(batch.mask_NT.shape, 1 / (2 * len(groups)), dtype=torch.float64)
    batch = in_expectation(replace(batch, weight_NT=even_NT), prob_P)
    return gradient(learner, batch)


def one_group_a_step(world: World, slope_W: Tensor) -> Iterator[Check | Fact]:
    """As a run weighs: 1 over the attempts that are left, group by group; many groups tend to the sum above over
    P(stop), one group does not."""
    groups, prob_P = world.groups(2)
    learner = world.learner(FILTERED)
    kept = [
        (weigh(b, FILTERED), p)
        for b, p in ((learner.prepare([g]), p) for g, p in zip(groups, prob_P, strict=True))
        if b.num_rollouts
    ]
    alone_W = gradient(learner, joined([b for b, _ in kept], torch.stack([p for _, p in kept])))
    many_W = gradient(learner, in_expectation(prepared(learner, groups), prob_P))
    share = sum(r.ended == "stop" for g in groups for r in g.rollouts) / (2 * len(groups))
    yield equal("weighed by the kept alone: the same over their share", many_W * share, over_groups(world, drop=True))
    yield Fact("one group a step: degrees off grad J", angle(alone_W, slope_W))
    yield Fact("many groups a step: degrees off grad J", angle(many_W, slope_W))
