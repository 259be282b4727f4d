"""From groups of rollouts to a batch the objective can read: only what the recipe's slots need."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.aggregate import token_mean
from upslope.algo.check import one_for_each_token
from upslope.algo.equal import alike
from upslope.algo.log_ratio import masked
from upslope.algo.objective import Objective
from upslope.algo.recipe import Recipe, show
from upslope.algo.returns import at_chosen, lambda_returns, outcome_at_last
from upslope.algo.sample import Attempts
from upslope.algo.wanted import require_rectangle
from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.types import Batch, Group, Rollout, given


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
    mask_NT = rectangle([r.mask for r in rollouts], torch.bool).reshape(len(rollouts), width)
    reward_N = torch.tensor([r.reward for r in rollouts], dtype=dtype, device=device)
    reward_NT = outcome_at_last(reward_N, mask_NT)
    if any(r.score.by_token for r in rollouts):
        way_NT = rectangle([r.score.by_token or () for r in rollouts], dtype)
        reward_NT, reward_N = reward_NT + at_chosen(way_NT, mask_NT), reward_N + way_NT.sum(dim=1)
    draw_weights = [g.weight for g in groups for _ in g.rollouts]
    several = any(r.turns for r in rollouts)
    versions = [r.versions or (r.version,) * len(r.response) for r in rollouts]
    return Batch(
        rollouts=rollouts,
        mask_NT=mask_NT,
        reward_N=reward_N,
        reward_NT=reward_NT,
        version_NT=rectangle(versions, torch.long).reshape(len(rollouts), width),
        group_N=torch.tensor(group_of, dtype=torch.long, device=device),
        truncated_N=torch.tensor([r.ended == "length" for r in rollouts], dtype=torch.bool, device=device),
        draw_weight_N=torch.tensor(draw_weights, dtype=dtype, device=device) if set(draw_weights) - {1.0} else None,
        turn_NT=rectangle([turn_numbers(r) for r in rollouts], torch.long).reshape(len(rollouts), width)
        if several
        else None,
        limit=limit,
        sampler_logp_NT=rectangle([r.logp or () for r in rollouts], dtype) if sampled else None,
    )


def turn_numbers(rollout: Rollout) -> list[int]:
    """Of which turn each token is; what the world says after a turn counts as that turn's.

    >>> mask = (True, True, False, True, True)
    >>> shown = Rollout("toy", 0, (5,), (7, 2, 9, 8, 2), mask, None, 0, "stop", "", turns=(3,))
    >>> turn_numbers(shown)
    [0, 0, 0, 1, 1]
    """
    return [bisect.bisect_right(rollout.turns, place) for place in range(len(rollout.response))]


def judge(batch: Batch, recipe: Recipe) -> Batch:
    """Fill the advantages: shape the outcome, let every token pay what the penalty costs in the reward, then compare.

    What has to be scored for that (reference, values) must be in the batch. What a slot gives outside the mask is
    dropped, so that padding never counts. Raises UserError for a slot that gives anything but one value a token.
    """
    reward_NT = masked(require_rectangle("shape", recipe.shape, recipe.shape(batch), batch), batch)
    outcome_N = torch.where(batch.mask_NT.any(dim=1), reward_NT.sum(dim=1), batch.reward_N)
    if recipe.penalty_place == "reward":
        found = recipe.asked("regulariser").cost(batch)
        cost_NT = masked(require_rectangle("regulariser", recipe.regulariser, found, batch, of="cost"), batch)
        reward_NT = reward_NT - cost_NT
        outcome_N = outcome_N - cost_NT.sum(dim=1)
    batch = replace(batch, reward_N=outcome_N, reward_NT=reward_NT)
    advantage_NT = require_rectangle("advantage", recipe.advantage, recipe.advantage(batch), batch)
    batch = replace(batch, advantage_NT=masked(advantage_NT, batch))
    if recipe.asked("surrogate").one_ratio:
        require_one_advantage(batch, recipe)
    if batch.value_NT is not None:
        batch = replace(batch, return_NT=targets(batch, recipe))
    # Only now: a truncated attempt still counts when its siblings are compared.
    if isinstance(recipe.sample, Attempts) and recipe.sample.drop_truncated:
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
            f"{one_for_each_token(recipe.surrogate)}"
        )


def targets(batch: Batch, recipe: Recipe) -> Tensor:
    """What the critic is to predict: lambda-returns with its own lambda and the advantage's gamma."""
    reward_NT, value_NT = given(batch.reward_NT, "reward_NT"), given(batch.value_NT, "value_NT")
    return lambda_returns(reward_NT, value_NT, batch.mask_NT, recipe.gamma, recipe.asked("critic").lam)


def weigh(minibatch: Batch, recipe: Recipe, share: float = 1.0) -> Batch:
    """Fix all denominators of an update, and what slots see in it as a whole, before anything is split: the policy's,
    and the critic's (every token of the mini-batch counts the same there). ``share``: what the update counts for beside
    the others of its epoch."""
    weight_NT = require_rectangle("aggregate", recipe.aggregate, recipe.aggregate(minibatch), minibatch)
    if minibatch.draw_weight_N is not None:
        weight_NT = weight_NT * minibatch.draw_weight_N[:, None]
    minibatch = replace(minibatch, weight_NT=share * masked(weight_NT, minibatch))
    if recipe.has_critic:  # which states it knows well is a matter of accuracy, not of the objective: all count alike
        minibatch = replace(minibatch, value_weight_NT=share * token_mean(minibatch))
    # Whoever looks with the present policy can look only when the update comes (``Learner.marked``).
    return minibatch if "present_logp" in recipe.needs else Objective(recipe).marked(minibatch)


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
