"""Claim 6: groups whose rewards are all equal, left in, left out, and replaced."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import BatchZScore, GroupZScore, group_mean
from upslope.algo.family import GRPO, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.algo.recipe import Recipe, show
from upslope.algo.regulariser import K3, no_penalty
from upslope.algo.sample import mixed
from upslope.algo.surrogate import likelihood
from upslope.learn.bound import BoundLearner
from upslope.learn.prepare import weigh
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, gap
from upslope.prove.expect import expected, gradient, in_expectation, joined, prepared, rise
from upslope.prove.world import World, right_or_wrong, toy
from upslope.types import Batch, Group


@claim(
    6,
    "equal-groups",
    "Dropping groups of equal rewards changes nothing without a penalty; it changes a z-scored and a refilled batch",
    source="arXiv 2503.14476, equation 11 (dynamic sampling); arXiv 2501.03262, section 3",
    compares="gradients with and without the rows of equal groups; expectations given that a group is mixed",
)
def equal_groups() -> Iterator[Check | Fact]:
    """A group of equal rewards has advantage 0 and no gradient, so skipping it is exact while the denominators stay.

    With m the probability that a group is mixed and g the expected gradient of one group: a batch refilled with mixed
    groups expects E[g | mixed] = g / m; P groups of which only the K mixed ones are averaged expect
    g (1 - (1 - m)^P) / m. A z-score over the batch has another mean and deviation once rows are gone.
    """
    world = right_or_wrong(toy(limit=2))
    groups, prob_P = world.groups(2)
    yield from skipped(world, groups, prob_P)
    yield from refilled(world, groups, prob_P)
    yield from refilled_from_two(world, right_or_wrong(toy(limit=2, prompt=(2, 1))))
    yield from normalised(world, groups, prob_P)


def in_full(learner: BoundLearner, batch: Batch) -> Tensor:
    """The gradient with every row passed through the model, none skipped."""
    learner.optimizer.zero()
    losses, _ = learner.objective(learner.score(batch), batch)
    losses.policy.backward()  # type: ignore[no-untyped-call]
    return rise(learner)


def skipped(world: World, groups: Sequence[Group], prob_P: Tensor) -> Iterator[Check | Fact]:
    """The learner skips rows without a gradient; without a penalty that is exact, with one it must not do it."""
    other = toy(limit=2, seed=9)
    penalised = GRPO.patch(advantage=group_mean, surrogate=likelihood, regulariser=K3())
    for name, recipe in (("without a penalty", penalised.patch(regulariser=no_penalty)), ("with a penalty", penalised)):
        learner = world.learner(recipe, reference=other if recipe.refers else None)
        batch = in_expectation(prepared(learner, groups), prob_P)
        outcome = learner.gradient(Objective(recipe), batch)
        found_W, full_W = rise(learner), in_full(learner, batch)
        yield equal(f"{name}: the learner's gradient is that of all rows", found_W, full_W)
        yield Fact(f"{name}: rows skipped of {batch.num_rollouts}", batch.num_rollouts - outcome.minibatch.num_rollouts)
        unequal = torch.tensor([mixed(g) is not None for g in groups])
        rows = unequal[batch.group_N].nonzero()[:, 0].tolist()
        dropped_W = gradient(learner, batch.take(rows))
        if recipe.penalised:
            yield at_least(f"{name}: dropping equal groups moves the gradient by", gap(dropped_W, full_W), 0.01)
            yield Fact(f"{name}: dropping equal groups moves the gradient by", gap(dropped_W, full_W))
        else:
            yield equal(f"{name}: dropping equal groups leaves the gradient", dropped_W, full_W)


def refilled(world: World, groups: Sequence[Group], prob_P: Tensor) -> Iterator[Check | Fact]:
    """The expectation given that a group is mixed; and where the denominators follow what was kept."""
    keep = torch.tensor([mixed(g) is not None for g in groups])
    kept = [g for g, k in zip(groups, keep, strict=True) if k]
    share = float(prob_P[keep].sum())
    recipe = REINFORCE_BASELINE
    for advantage in (GroupZScore(), group_mean):
        learner = world.learner(recipe.patch(advantage=advantage))
        plain_W = expected(learner, groups, prob_P)
        given_mixed_W = expected(learner, kept, prob_P[keep] / share)
        yield equal(f"refilled, {show(advantage)}: E[g | mixed] = E[g] / m", given_mixed_W, plain_W / share)
    yield at_least("refilled: a step is longer by 1/m", float(given_mixed_W.norm() / plain_W.norm()), 1.1)
    yield Fact("probability m that a group of 2 is mixed", share)
    yield Fact("refilled: a step is longer by 1/m", 1 / share)
    pairs = [(weigh(learner.prepare(both), recipe), prob) for both, prob in kept_of_two(groups, prob_P) if both]
    short_W = gradient(learner, joined([b for b, _ in pairs], torch.stack([p for _, p in pairs])))
    factor = (1 - (1 - share) ** 2) / share
    yield equal("2 groups, the mixed ones averaged: g (1 - (1 - m)^2) / m", short_W, factor * plain_W)


def refilled_from_two(one: World, other: World) -> Iterator[Check | Fact]:
    """Problems drawn evenly, tried until a group is mixed: (g_1 + g_2) / (m_1 + m_2). The direction stays; a problem
    is met in proportion to its m, which is how it counted before."""
    gradients, shares, groups, probs = [], [], [], []
    for world in (one, other):
        drawn, prob_P = world.groups(2)
        gradients.append(expected(world.learner(REINFORCE_BASELINE), drawn, prob_P))
        keep = torch.tensor([mixed(g) is not None for g in drawn])
        shares.append(prob_P[keep].sum())
        groups += [g for g, k in zip(drawn, keep, strict=True) if k]
        probs.append(prob_P[keep] / 2)
    share = torch.stack(shares)
    found_W = expected(one.learner(REINFORCE_BASELINE), groups, torch.cat(probs) / share.mean())
    yield equal("refilled from two problems: (g1 + g2) / (m1 + m2)", found_W, sum(gradients) / share.sum())
    for num, value in enumerate(share, start=1):
        yield Fact(f"two problems: probability m{num} of a mixed group", float(value))


def kept_of_two(groups: Sequence[Group], prob_P: Tensor) -> list[tuple[list[Group], Tensor]]:
    """Every batch of two groups as ``mixed`` leaves it, with the probability of the batch."""
    pairs = itertools.product(zip(groups, prob_P, strict=True), repeat=2)
    return [([g for g in (a, b) if mixed(g) is not None], p * q) for (a, p), (b, q) in pairs]


def normalised(world: World, groups: Sequence[Group], prob_P: Tensor) -> Iterator[Check | Fact]:
    """A z-score over the batch of two groups, with the equal ones left in and left out."""
    recipe: Recipe = REINFORCE_BASELINE.patch(advantage=BatchZScore())
    learner = world.learner(recipe)
    whole, rest, probs = [], [], []
    for (a, p), (b, q) in itertools.product(zip(groups, prob_P, strict=True), repeat=2):
        kept = [g for g in (a, b) if mixed(g) is not None]
        whole.append(weigh(learner.prepare([a, b]), recipe))
        if kept:
            rest.append(weigh(learner.prepare(kept), recipe))
            probs.append(p * q)
    prob_B = torch.cartesian_prod(prob_P, prob_P).prod(dim=1)
    whole_W = gradient(learner, joined(whole, prob_B))
    # The denominators of the whole batch stay, so that the advantages alone make the difference.
    rest = [replace(b, weight_NT=torch.full(b.mask_NT.shape, 1 / 4, dtype=torch.float64)) for b in rest]
    rest_W = gradient(learner, joined(rest, torch.stack(probs)))
    for label, value in (
        ("z-score over the batch: dropping moves the expectation by", gap(rest_W, whole_W)),
        ("z-score over the batch: dropping turns it by degrees", angle(rest_W, whole_W)),
    ):
        yield at_least(label, value, 0.01)
        yield Fact(label, value)
    yield Fact("z-score over the batch: length after over before", float(rest_W.norm() / whole_W.norm()))
