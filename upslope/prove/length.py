"""Claim 13: what one token counts for, by the length of its answer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.algo.family import DR_GRPO, REINFORCE
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import no_penalty
from upslope.learn.prepare import to_batch, weigh
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal
from upslope.prove.clipping import answers
from upslope.prove.expect import expected_over, gradient, joined
from upslope.prove.world import World, toy
from upslope.types import given


@claim(
    13,
    "length",
    "A sequence mean weighs tokens by 1/T and so optimises reward a token; sums and constants optimise the reward",
    source="arXiv 2503.20783, section 3; arXiv 2503.14476, equation 12",
    compares="weights in an answer of 50 and one of 500 tokens by hand; expected gradients with grad J and grad E[R/T]",
)
def length() -> Iterator[Check | Fact]:
    """Sequence mean: 1/(N T). Token mean: 1/sum T. Sequence sum: 1/N. Constant: 1/(N L), L the longest that sampling
    allows. Since E[R/T grad log p] = grad E[R/T], the sequence mean ascends the reward a token, exactly."""
    by_hand = {
        "sequence_mean": (sequence_mean, 1 / (2 * 50), 1 / (2 * 500)),
        "token_mean": (token_mean, 1 / 550, 1 / 550),
        "sequence_sum": (sequence_sum, 1 / 2, 1 / 2),
        "constant, L = 1000 as sampling allows": (ConstantLength(), 1 / 2000, 1 / 2000),
        "constant, L = 600": (ConstantLength(600), 1 / 1200, 1 / 1200),
    }
    batch = to_batch(answers([50, 500], 1000), torch.device("cpu"), torch.float64, limit=1000)
    for name, (aggregate, short, long) in by_hand.items():
        weight_N = given(weigh(batch, REINFORCE.patch(aggregate=aggregate)).weight_NT, "weight_NT")[:, 0]
        yield equal(f"50 and 500 tokens, {name}", weight_N, torch.tensor([short, long], dtype=torch.float64))
        yield Fact(f"{name}: a token of 50 counts as so many of 500", float(weight_N[0] / weight_N[1]))
    world = toy()
    yield from what_is_ascended(world)
    yield from cheap_when_long(world)


def what_is_ascended(world: World) -> Iterator[Check | Fact]:
    """The expected gradient of every aggregate, and which function's gradient it is."""
    slope_W = world.slope(world.expected_reward())
    per_token_W = world.slope((world.prob_Y() * world.reward_Y / world.length_Y).sum())
    mean_W = expected_over(world, REINFORCE.patch(aggregate=sequence_mean))
    yield equal("sequence mean: grad E[R/T]", mean_W, per_token_W)
    turned = angle(mean_W, slope_W)
    yield at_least("sequence mean: degrees off grad J", turned, 1.0)
    yield Fact("sequence mean: degrees off grad J", turned)
    for num, name in ((0, "L = the limit, 3"), (100, "L = 100")):
        scale = num or world.limit
        constant_W = expected_over(world, REINFORCE.patch(aggregate=ConstantLength(num)))
        yield equal(f"constant, {name}: grad J / L", constant_W, slope_W / scale)
    dr_grpo = DR_GRPO.patch(regulariser=no_penalty)
    yield equal("Dr. GRPO, G = 2: 1/2 grad J / L", expected_over(world, dr_grpo, 2), slope_W / 2 / world.limit)
    token_W = over_pairs(world, REINFORCE.patch(aggregate=token_mean))
    yield at_least(
        "token mean over two attempts: off every multiple of grad J by degrees", angle(token_W, slope_W), 0.1
    )
    yield Fact("token mean over two attempts: degrees off grad J", angle(token_W, slope_W))


def over_pairs(world: World, recipe: Recipe) -> Tensor:
    """The expected gradient of a step with two attempts, for an aggregate that looks at the whole batch."""
    groups, prob_P = world.groups(2)
    learner = world.learner(recipe)
    return gradient(learner, joined([weigh(learner.prepare([g]), recipe) for g in groups], prob_P))


def cheap_when_long(world: World) -> Iterator[Check | Fact]:
    """Every answer is equally wrong, R = -1: the reward asks for nothing, but under a sequence mean answers get longer,
    since a long wrong answer costs less a token. d E[T] along the step is its product with grad E[T]."""
    wrong = world.rewarding(-torch.ones_like(world.reward_Y))
    longer_W = wrong.slope((wrong.prob_Y() * wrong.length_Y).sum())
    mean_W = expected_over(wrong, REINFORCE.patch(aggregate=sequence_mean))
    sum_W = expected_over(wrong, REINFORCE.patch(aggregate=sequence_sum))
    growth = float(mean_W @ longer_W)
    yield at_least("all wrong, sequence mean: expected length grows at the rate", growth, 0.01)
    yield Fact("all wrong, sequence mean: expected length grows by, per unit of learning rate", growth)
    yield equal("all wrong, sequence sum: expected length stays (added to 1)", 1.0 + float(sum_W @ longer_W), 1.0)
    yield Fact("expected length", float((wrong.prob_Y() @ wrong.length_Y).detach()))
