"""Claim 33: mini-batches are updates of their own, micro-batches are parts of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.algo.family import REINFORCE_BASELINE
from upslope.algo.recipe import show
from upslope.algo.reuse import Reuse
from upslope.learn import prepare
from upslope.learn.prepare import weigh
from upslope.prove.claim import Check, Fact, claim, equal, vanishes
from upslope.prove.expect import gradient
from upslope.prove.splitting import some_groups
from upslope.prove.values import PLAIN_PPO
from upslope.prove.world import toy
from upslope.rollout.address import Address
from upslope.types import Batch, Group, given

HERE = Address(0, "reuse")
BY_HAND: dict[Callable[[Batch], Tensor], Callable[[list[int]], list[float]]] = {
    sequence_sum: lambda lengths: [1 / len(lengths)] * len(lengths),
    sequence_mean: lambda lengths: [1 / len(lengths) / n for n in lengths],
    token_mean: lambda lengths: [1 / sum(lengths)] * len(lengths),
    ConstantLength(7): lambda lengths: [1 / len(lengths) / 7] * len(lengths),
}
"""The weight of every row from the lengths of the rows of its own mini-batch."""


@claim(
    33,
    "mini-batches",
    "Mini-batches have denominators of their own; weighed by their problems, they average to the whole batch",
    source="arXiv 1707.06347, algorithm 1; one denominator for each update",
    compares="weights of every mini-batch with counts by hand; the mean of their gradients with the whole batch's",
)
def mini_batches() -> Iterator[Check | Fact]:
    """A mini-batch of g of the G problems, one of M, weighs its rows as a batch of its own, times g M / G: 1 where the
    cut is even. For weights that only count attempts the mean of the M gradients is then the whole batch's."""
    world = toy()
    four = some_groups(world)
    five = [*four, replace(four[0], problem=replace(four[0].problem, id="again"))]
    for groups, num_parts in ((four, 2), (four, 4), (five, 2), (five, 3)):
        for aggregate, weights in BY_HAND.items():
            recipe = REINFORCE_BASELINE.patch(aggregate=aggregate, reuse=Reuse(minibatches=num_parts))
            learner = world.learner(recipe)
            batch = learner.prepare(groups)
            parts = list(prepare.passes(batch, recipe, HERE))
            label = f"{len(groups)} problems in {num_parts}, {show(aggregate)}"
            found, truth = [], []
            for part in parts:
                lengths = [len(r.response) for r in part.rollouts]
                share = len(set(part.group_N.tolist())) * num_parts / len(groups)
                found.append(given(part.weight_NT, "weight_NT")[:, 0])
                truth.append(torch.tensor(weights(lengths), dtype=torch.float64) * share)
            yield equal(f"{label}: weights", torch.cat(found), torch.cat(truth))
            if aggregate is not token_mean:
                mean_W = torch.stack([gradient(learner, part) for part in parts]).mean(dim=0)
                yield equal(f"{label}: their gradients' mean", mean_W, gradient(learner, weigh(batch, recipe)))
        yield from met_once(groups, num_parts)
        yield from of_the_critic(groups, num_parts)


def of_the_critic(groups: list[Group], num_parts: int) -> Iterator[Check | Fact]:
    """The critic's loss is a mean over the tokens of its own mini-batch, times the same share."""
    recipe = PLAIN_PPO.patch(reuse=Reuse(minibatches=num_parts))
    parts = list(prepare.passes(toy().learner(recipe).prepare(groups), recipe, HERE))
    found = torch.cat([given(part.value_weight_NT, "value_weight_NT")[:, 0] for part in parts])
    truth = []
    for part in parts:
        share = len(set(part.group_N.tolist())) * num_parts / len(groups)
        tokens = sum(len(r.response) for r in part.rollouts)
        truth.append(torch.full((part.num_rollouts,), share / tokens, dtype=torch.float64))
    yield equal(f"{len(groups)} problems in {num_parts}, the critic: weights", found, torch.cat(truth))


def met_once(groups: list[Group], num_parts: int) -> Iterator[Check | Fact]:
    """Every pass meets every attempt once, and a problem's attempts together."""
    recipe = REINFORCE_BASELINE.patch(reuse=Reuse(epochs=2, minibatches=num_parts))
    batch = toy().learner(recipe).prepare(groups)
    parts = list(prepare.passes(batch, recipe, HERE))
    label = f"{len(groups)} problems in {num_parts}"
    yield equal(f"{label}: updates in two passes", float(len(parts)), 2.0 * num_parts)
    counts = [sum(r is s for p in parts for s in p.rollouts) for r in batch.rollouts]
    meant = [2 * sum(r is s for s in batch.rollouts) for r in batch.rollouts]
    yield equal(f"{label}: every attempt in every pass", torch.tensor(counts), torch.tensor(meant))
    apart = sum(len(set(p.group_N.tolist())) * 3 != p.num_rollouts for p in parts)
    yield vanishes(f"{label}: mini-batches with part of a problem", float(apart))
