"""Exact expectations of what the learner does: sums over everything that can be drawn of probability times outcome.

Every sum runs inside one batch. The loss is sum_nt weight_nt value_nt, so the expectation over batches is the same
sum over all rows of all batches, each row's weight multiplied by the probability of its batch. Weights, and with them
all denominators, are fixed by ``weigh`` before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from upslope.learn.bound import BoundLearner
from upslope.learn.prepare import weigh
from upslope.prove.world import World
from upslope.types import Batch, Group, given


def gradient(learner: BoundLearner, batch: Batch) -> Tensor:
    """Minus the gradient of the loss over a weighed batch, shape W: the direction in which the objective rises."""
    learner.gradient(learner.objective, batch)
    return rise(learner)


def rise(learner: BoundLearner) -> Tensor:
    """Minus the gradient that stands in the masters, shape W."""
    masters = learner.optimizer.masters.values()
    return -torch.cat([torch.zeros_like(m).flatten() if m.grad is None else m.grad.flatten() for m in masters]).detach()


def loss(learner: BoundLearner, batch: Batch) -> float:
    """The policy's loss over a weighed batch, all rows of it (no row is skipped)."""
    with torch.no_grad():
        total = 0.0
        for part in learner.scorer.micro_batches(batch):
            losses, _ = learner.objective(learner.score(part), part)
            total += float(losses.policy)
        return total


def prepared(learner: BoundLearner, groups: Sequence[Group]) -> Batch:
    """Judged and weighed, as one update sees it."""
    return weigh(learner.prepare(groups), learner.recipe)


def in_expectation(batch: Batch, prob_P: Tensor) -> Batch:
    """For weights that only count rollouts (1/N, 1/(N T_n), 1/(N L)): a weighed batch of all P groups, each drawn with
    its own probability instead of once. With P groups in the batch, 1/N is 1/(P G); times P prob_P it is prob_P / G,
    which is what a step that draws one group expects."""
    return replace(batch, weight_NT=given(batch.weight_NT, "weight_NT") * prob_P[batch.group_N, None] * len(prob_P))


def expected(learner: BoundLearner, groups: Sequence[Group], prob_P: Tensor) -> Tensor:
    """The expected gradient of a step that draws one of the groups; for aggregates that only count rollouts."""
    return gradient(learner, in_expectation(prepared(learner, groups), prob_P))


def expected_over(world: World, recipe: Any, size: int = 1, **more: Any) -> Tensor:
    """``expected`` over every group of ``size`` attempts of a world, by a learner that stands where it was drawn."""
    return expected(world.learner(recipe, **more), *world.groups(size))


def joined(batches: Sequence[Batch], prob_B: Tensor) -> Batch:
    """All batches as one, each row's weight times its batch's probability: the expectation for any aggregate."""
    width = max(b.mask_NT.shape[1] for b in batches)
    found: dict[str, Any] = {}
    for f in fields(Batch):
        values = [getattr(b, f.name) for b in batches]
        if f.name == "rollouts":
            found[f.name] = tuple(r for v in values for r in v)
        elif isinstance(values[0], Tensor):
            values = [pad(v, (0, width - v.shape[1])) if v.dim() == 2 else v for v in values]
            found[f.name] = torch.cat(values)
        else:
            found[f.name] = values[0]
    whole = Batch(**found)
    counts = torch.tensor([b.num_rollouts for b in batches])
    return replace(whole, weight_NT=given(whole.weight_NT, "weight_NT") * prob_B.repeat_interleave(counts)[:, None])


def each_gradient(learner: BoundLearner, groups: Sequence[Group]) -> Tensor:
    """The gradient of every group alone, [P, W]."""
    return torch.stack([gradient(learner, prepared(learner, [g])) for g in groups])
