"""Claims 18 and 19: one ratio an attempt (GSPO), a bounded weight (CISPO), a bound from below (dual clip)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.aggregate import sequence_mean, sequence_sum
from upslope.algo.family import REINFORCE
from upslope.algo.recipe import Recipe
from upslope.algo.reuse import Reuse
from upslope.algo.surrogate import ClippedRatio, ClippedWeight, SequenceRatio
from upslope.prove.claim import Check, Fact, claim, equal
from upslope.prove.clipping import one_token
from upslope.prove.expect import expected_over
from upslope.prove.ratio import off_policy
from upslope.prove.world import World, toy

TWICE = REINFORCE.patch(reuse=Reuse(epochs=2))
"""Plain rewards for advantages, of both signs; two updates a batch, so that the batch keeps log pi_old."""
WIDE = 1e9
"""A range that nothing leaves."""


def inside(world: World) -> Tensor:
    """bool YT: which places of the responses' rectangle hold a token."""
    return torch.arange(world.limit) < world.length_Y[:, None]


def log_ratio(old: World, now: World) -> Tensor:
    """log pi_now(y_t) - log pi_old(y_t) of every token of every response, YT, with gradient through ``now``."""
    return now.logp_YT() - old.logp_YT().detach()


@claim(
    18,
    "sequence-ratio",
    "GSPO's ratio is the geometric mean of the tokens'; its first step is the sequence mean's; it clips whole attempts",
    source="arXiv 2507.18071, equations 5 to 10",
    compares="value and gradient of the learner's objective with sums over all responses, at and after the first step",
)
def sequence_ratio() -> Iterator[Check | Fact]:
    """s = exp(1/T sum_t log r_t) and E[min(s A, clip(s, 1 - low, 1 + high) A)]; at s = 1 the gradient is A/T sum_t
    grad log pi(y_t), which is the plain one under a sequence mean."""
    world = toy()
    plain_W = expected_over(world, REINFORCE.patch(aggregate=sequence_mean))
    for name, surrogate in (("as shipped", SequenceRatio()), ("unclipped", SequenceRatio(1.0, WIDE))):
        recipe = TWICE.patch(surrogate=surrogate, aggregate=sequence_mean)
        yield equal(
            f"first step, {name}: the plain gradient under a sequence mean", expected_over(world, recipe), plain_W
        )
    for drift, low, high in ((0.5, 1.0, WIDE), (0.5, 0.02, 0.1), (0.5, 0.1, 0.02), (3e-3, 3e-4, 4e-4)):
        yield from clipped_whole(world, world.moved(drift), low, high, f"drift {drift}, range -{low} +{high}")
    yield from sides()


def clipped_whole(world: World, now: World, low: float, high: float, label: str) -> Iterator[Check | Fact]:
    """Case by case: A > 0 stops paying at s = 1 + high, A < 0 at s = 1 - low, for all tokens of the attempt at once."""
    recipe = TWICE.patch(surrogate=SequenceRatio(low, high), aggregate=sequence_mean)
    found_W, found = off_policy(world, now, recipe)
    ratio_Y = (log_ratio(world, now).sum(dim=1) / world.length_Y).exp()
    paid_Y = torch.where(world.reward_Y > 0, ratio_Y.clamp(max=1 + high), ratio_Y.clamp(min=1 - low))
    prob_Y = world.prob_Y().detach()
    value = (prob_Y * paid_Y * world.reward_Y).sum()
    yield equal(f"{label}: value", -found, value)
    yield equal(f"{label}: gradient", found_W, now.slope(value))
    silent_Y = torch.where(world.reward_Y > 0, ratio_Y > 1 + high, ratio_Y < 1 - low)
    yield Fact(f"{label}: probability of an attempt that is silenced", float(prob_Y @ silent_Y.double()))


def sides() -> Iterator[Check | Fact]:
    """Where the gradient lives, for a range of unequal sides: A > 0 up to 1.3, A < 0 down to 0.9."""
    ratio = torch.tensor([0.5, 0.85, 0.95, 1.05, 1.25, 1.35, 2.0], dtype=torch.float64)
    recipe = TWICE.patch(surrogate=SequenceRatio(low=0.1, high=0.3))
    for sign in (1.0, -1.0):
        value, slope, marked = one_token(ratio, torch.full_like(ratio, sign), recipe)
        lives = ratio < 1.3 if sign > 0 else ratio > 0.9
        bound = ratio.clamp(max=1.3) if sign > 0 else ratio.clamp(min=0.9)
        yield equal(f"one token, A = {sign:+.0f}: value", value, bound * sign)
        yield equal(f"one token, A = {sign:+.0f}: gradient", slope, ratio * lives * sign)
        yield equal(f"one token, A = {sign:+.0f}: marked as clipped", marked.double(), (~lives).double())


@claim(
    19,
    "bounded-weight",
    "CISPO bounds the weight and silences no token; the dual clip bounds from below where A < 0, and nowhere else",
    source="arXiv 2506.13585, equations 4 and 5; arXiv 1912.09729, equation 5",
    compares="single tokens with the cases by hand; expected gradients after the policy moved with sums over responses",
)
def bounded_weight() -> Iterator[Check | Fact]:
    """CISPO: sg(clip(r, 1 - low, 1 + high)) A grad log pi. Dual clip: max(min(r A, clip(r) A), dual A) where A < 0."""
    ratio = torch.tensor([0.2, 0.6, 1.0, 1.5, 2.5, 5.0], dtype=torch.float64)
    for low, high in ((1.0, 1.0), (0.5, 0.3)):
        recipe = TWICE.patch(surrogate=ClippedWeight(low, high))
        for sign in (1.0, -0.7):
            _, slope, marked = one_token(ratio, torch.full_like(ratio, sign), recipe)
            weight = torch.tensor([min(max(float(r), 1 - low), 1 + high) for r in ratio], dtype=torch.float64)
            label = f"CISPO, range -{low} +{high}, A = {sign:+}"
            yield equal(f"{label}: gradient", slope, weight * sign)
            yield equal(f"{label}: marked as bounded", marked.double(), (weight != ratio).double())
    yield from in_expectation_bounded(toy())
    yield from dual_clip(ratio)


def in_expectation_bounded(world: World) -> Iterator[Check | Fact]:
    """The same over every response, at the first step and far from it."""
    for drift in (0.0, 1.5):
        now = world.moved(drift)
        for low, high in ((1.0, 0.2), (0.2, 4.0)):
            recipe: Recipe = TWICE.patch(surrogate=ClippedWeight(low, high), aggregate=sequence_sum)
            found_W, _ = off_policy(world, now, recipe)
            ratio_YT = log_ratio(world, now).exp().detach()
            weight_YT = ratio_YT.clamp(1 - low, 1 + high) * inside(world)
            pushed = (world.prob_Y().detach() * world.reward_Y * (weight_YT * now.logp_YT()).sum(dim=1)).sum()
            yield equal(f"CISPO, drift {drift}, range -{low} +{high}: gradient", found_W, now.slope(pushed))
            bounded_YT = (weight_YT != ratio_YT) & inside(world)
            share = (
                world.prob_Y().detach() @ bounded_YT.double().sum(dim=1) / (world.prob_Y().detach() @ world.length_Y)
            )
            yield Fact(f"CISPO, drift {drift}, range -{low} +{high}: share of tokens bounded", float(share))
        if not drift:
            yield equal("CISPO, first step: grad J", found_W, world.slope(world.expected_reward()))


def dual_clip(ratio: Tensor) -> Iterator[Check | Fact]:
    """A = -1, range 0.2, dual 2: max(r, 0.8) up to r = 2, then 2 and no gradient. A = +1: PPO's, untouched."""
    recipe = TWICE.patch(surrogate=ClippedRatio(0.2, 0.2, dual=2.0))
    plain = TWICE.patch(surrogate=ClippedRatio(0.2, 0.2))
    value, slope, marked = one_token(ratio, -torch.ones_like(ratio), recipe)
    by_hand = torch.tensor([-0.8, -0.8, -1.0, -1.5, -2.0, -2.0], dtype=torch.float64)
    yield equal("dual clip, A = -1: value at r = 0.2, 0.6, 1, 1.5, 2.5, 5", value, by_hand)
    lives = torch.tensor([0, 0, 1, 1, 0, 0], dtype=torch.float64)
    yield equal("dual clip, A = -1: gradient", slope, -ratio * lives)
    yield equal("dual clip, A = -1: marked as clipped", marked.double(), 1 - lives)
    for label, found, theirs in zip(
        ("value", "gradient"),
        one_token(ratio, torch.ones_like(ratio), recipe),
        one_token(ratio, torch.ones_like(ratio), plain),
        strict=False,
    ):
        yield equal(f"dual clip, A = +1: {label} is PPO's", found, theirs)
    cases = torch.tensor([1.5, 1.5, 0.6, 0.6], dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    value, _, _ = one_token(cases, signs, plain)
    yield equal(
        "PPO's four cases: 1.2, -1.5, -0.8, 0.6", value, torch.tensor([1.2, -1.5, -0.8, 0.6], dtype=torch.float64)
    )
