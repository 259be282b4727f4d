"""From groups of rollouts to a batch the objective can read: only what the recipe's slots need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.aggregate import token_mean
from upslope.algo.check import penalty_place
from upslope.algo.critic import Critic
from upslope.algo.equal import alike
from upslope.algo.objective import masked
from upslope.algo.recipe import Recipe, show
from upslope.algo.returns import lambda_returns, outcome_at_last
from upslope.algo.surrogate import one_ratio
from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.types import Batch, Group, given


def to_batch(
    groups: Sequence[Group], device: torch.device, dtype: torch.dtype = torch.float32, *, limit: int = 0
) -> Batch:
    """The groups' rollouts as rectangles, group by group; a problem's rows stand together. ``limit`` is the longest
    response that sampling allows."""
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
        limit=limit,
        sampler_logp_NT=rectangle([r.logp or () for r in rollouts], dtype) if sampled else None,
    )


def judge(batch: Batch, recipe: Recipe) -> Batch:
    """Fill the advantages: shape the outcome, let every token pay what the penalty costs in the reward, then compare.

    What has to be scored for that (reference, values) must be in the batch. Only afterwards does overlong filtering
    take rows away, so that a truncated attempt still counts when its siblings are compared.
    """
    outcome_N = recipe.shape(batch)
    reward_NT = outcome_at_last(outcome_N, batch.mask_NT)
    if penalty_place(recipe) == "reward":
        cost_NT = recipe.regulariser.cost(batch)  # type: ignore[attr-defined]
        reward_NT = reward_NT - cost_NT
        outcome_N = outcome_N - cost_NT.sum(dim=1)
    batch = replace(batch, reward_N=outcome_N, reward_NT=reward_NT)
    batch = replace(batch, advantage_NT=recipe.advantage(batch))
    if one_ratio(recipe.surrogate):
        require_one_advantage(batch, recipe)
    if batch.value_NT is not None:
        batch = replace(batch, return_NT=targets(batch, recipe))
    if getattr(recipe.sample, "drop_truncated", False):
        batch = batch.take((~batch.truncated_N).nonzero()[:, 0].tolist())
    return batch


def require_one_advantage(batch: Batch, recipe: Recipe) -> None:
    """Raise UserError where tokens of an attempt have different advantages, which one ratio would average away."""
    advantage_NT, infinite = given(batch.advantage_NT, "advantage_NT"), float("inf")
    if not advantage_NT.shape[1]:
        return
    highest_N = torch.where(batch.mask_NT, advantage_NT, -infinite).amax(dim=1)
    lowest_N = torch.where(batch.mask_NT, advantage_NT, infinite).amin(dim=1)
    apart_N = batch.mask_NT.any(dim=1) & (highest_N - lowest_N).isfinite() & ~alike(highest_N, lowest_N)
    for row in apart_N.nonzero()[:, 0].tolist():
        rollout = batch.rollouts[row]
        raise UserError(
            f"advantage={show(recipe.advantage)} gives the tokens of sample {rollout.sample} of problem "
            f"{rollout.problem_id} values from {float(lowest_N[row]):.3g} to {float(highest_N[row]):.3g}, and "
            f"surrogate={show(recipe.surrogate)} has one ratio for them all, which averages them; set "
            "surrogate.level=token"
        )


def targets(batch: Batch, recipe: Recipe) -> Tensor:
    """What the critic is to predict: lambda-returns with its own lambda and the advantage's gamma."""
    lam = recipe.critic.lam if isinstance(recipe.critic, Critic) else 1.0
    reward_NT, value_NT = given(batch.reward_NT, "reward_NT"), given(batch.value_NT, "value_NT")
    return lambda_returns(reward_NT, value_NT, batch.mask_NT, recipe.gamma, lam)


def with_old(batch: Batch, logp_NT: Tensor, recipe: Recipe) -> Batch:
    """The batch with these log-probabilities, detached, as the old ones, where the recipe needs some and none are
    there: before a first update the old policy is the present one."""
    if "old_logp" not in recipe.needs or batch.old_logp_NT is not None:
        return batch
    return replace(batch, old_logp_NT=masked(logp_NT.detach(), batch))


def weigh(minibatch: Batch, recipe: Recipe, share: float = 1.0) -> Batch:
    """Fix all denominators of an update, before anything is split: the policy's, and the critic's (every token of the
    mini-batch counts the same there). ``share``: what the update counts for beside the others of its epoch."""
    minibatch = replace(minibatch, weight_N=share * recipe.aggregate(minibatch))
    return replace(minibatch, value_weight_N=share * token_mean(minibatch)) if recipe.has_critic else minibatch


def passes(batch: Batch, recipe: Recipe, address: Address) -> Iterator[Batch]:
    """The mini-batches of one step, each with its weights; one mini-batch keeps the batch's order.

    No rows, no update. Every mini-batch is an update of its own and gets denominators of its own, times g M / P for
    g of the step's P groups in one of M mini-batches: 1 where they are equally large, and otherwise what makes a group
    count the same whichever it falls into. Problems are shuffled anew at every epoch and stay whole, so that samples of
    one problem still share its prompt.
    """
    num_groups = len(set(batch.group_N.tolist()))
    for epoch in range(recipe.reuse.epochs if batch.num_rollouts else 0):
        parts = _split_groups(batch.group_N.tolist(), recipe.reuse.minibatches, address, epoch)
        for rows in parts:
            minibatch = batch.take(rows)
            num_here = len(set(minibatch.group_N.tolist()))
            yield weigh(minibatch, recipe, num_here * len(parts) / num_groups)


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


def zero_gradient_rows(batch: Batch, recipe: Recipe) -> list[bool]:
    """Which rows have no gradient whatever the policy says: no advantage anywhere, no penalty, and no critic to teach.

    Skipping their forward pass is exact because the weights, with all denominators, are already fixed.
    """
    if recipe.penalised or recipe.has_critic:
        pushed_N = batch.mask_NT.any(dim=1)
    else:
        pushed_N = (torch.where(batch.mask_NT, given(batch.advantage_NT, "advantage_NT"), 0) != 0).any(dim=1)
    return (~(pushed_N & (given(batch.weight_N, "weight_N") != 0))).tolist()
