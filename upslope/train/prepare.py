"""From groups of rollouts to a batch the objective can read: only what the recipe's slots need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import no_leash
from upslope.algo.surrogate import given
from upslope.rollout.address import Address
from upslope.types import Batch, Group


def to_batch(groups: Sequence[Group], device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
    """The groups' rollouts as rectangles, group by group; a problem's rows stand together."""
    rollouts = tuple(r for g in groups for r in g.rollouts)
    width = max((len(r.response) for r in rollouts), default=0)
    sampled = all(r.logp is not None for r in rollouts)

    def rectangle(rows: Sequence[Sequence[float]], kind: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=kind, device=device)

    group_of = [i for i, g in enumerate(groups) for _ in g.rollouts]
    return Batch(
        rollouts=rollouts,
        mask_NT=rectangle([r.mask for r in rollouts], torch.bool).reshape(len(rollouts), width),
        reward_N=torch.tensor([r.reward for r in rollouts], dtype=dtype, device=device),
        group_N=torch.tensor(group_of, dtype=torch.long, device=device),
        truncated_N=torch.tensor([r.ended == "length" for r in rollouts], dtype=torch.bool, device=device),
        sampler_logp_NT=rectangle([r.logp or () for r in rollouts], dtype) if sampled else None,
    )


def judge(batch: Batch, recipe: Recipe) -> Batch:
    """Fill the advantages: shape the rewards, then compare."""
    batch = replace(batch, reward_N=recipe.shape(batch))
    return replace(batch, advantage_NT=recipe.advantage(batch))


def passes(batch: Batch, recipe: Recipe, address: Address) -> Iterator[Batch]:
    """The mini-batches of one step, each with its weights; one mini-batch keeps the batch's order.

    Every mini-batch is an update of its own and gets denominators of its own. Problems are shuffled anew at every
    epoch and stay whole, so that samples of one problem still share its prompt.
    """
    for epoch in range(recipe.reuse.epochs):
        for rows in _split_groups(batch.group_N.tolist(), recipe.reuse.minibatches, address, epoch):
            minibatch = batch.take(rows)
            weight_N = recipe.aggregate(minibatch.mask_NT, dtype=minibatch.reward_N.dtype)
            yield replace(minibatch, weight_N=weight_N)


def _split_groups(group_of: Sequence[int], num_parts: int, address: Address, epoch: int) -> list[list[int]]:
    if num_parts == 1:
        return [list(range(len(group_of)))]
    rows_of: dict[int, list[int]] = {}
    for row, group in enumerate(group_of):
        rows_of.setdefault(group, []).append(row)
    groups = list(rows_of.values())
    shuffled = [groups[i] for i in replace(address, purpose=f"{address.purpose}/{epoch}").permutation(len(groups))]
    parts = [shuffled[i::num_parts] for i in range(num_parts)]
    return [[row for rows in part for row in rows] for part in parts if part]


def silent_rows(batch: Batch, recipe: Recipe) -> list[bool]:
    """Which rows have no gradient whatever the policy says: no advantage anywhere and no leash.

    Skipping their forward pass is exact because the weights, with all denominators, are already fixed.
    """
    pushed_N = (torch.where(batch.mask_NT, given(batch.advantage_NT, "advantage_NT"), 0) != 0).any(dim=1)
    if recipe.regulariser is not no_leash:
        pushed_N = batch.mask_NT.any(dim=1)
    return (~(pushed_N & (given(batch.weight_N, "weight_N") != 0))).tolist()
