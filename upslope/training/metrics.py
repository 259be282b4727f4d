"""One line of the journal from what a step did. Every mean is a sum over tokens (or attempts) divided once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.equal import alike, all_alike
from upslope.algo.outcome import Outcome
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import estimate_k3
from upslope.algo.returns import discounted
from upslope.training.tally import decided, of_rewards, of_worlds, solved
from upslope.types import Batch, Group, Rollout, given


def of_all(
    attempted: Sequence[Group],
    known: Mapping[str, float],
    batch: Batch,
    recipe: Recipe,
    measured: Mapping[str, Any],
    outcomes: Sequence[Outcome],
) -> dict[str, Any]:
    """All that a step's line of the journal says of attempts, batch and updates; ``known`` and ``measured`` as others
    found them."""
    row = of_attempts(attempted, imitates=not recipe.acts)
    row |= {**known, **of_batch(batch, attempted, recipe, outcomes), **measured}
    return row | of_updates(batch, outcomes) | of_correction(outcomes)


def of_attempts(groups: Sequence[Group], *, imitates: bool) -> dict[str, Any]:
    """What was attempted, before anything was filtered.

    ``reward`` mean reward, ``reward_std`` its spread, ``rewards`` the same of every function (``tally.of_rewards``);
    ``accuracy`` share that is right, where something says so; ``length`` tokens an attempt that the policy chose;
    ``truncated`` share cut by the limit; ``equal_groups`` share of problems whose attempts all earned the same, up to
    rounding. Where a world speaks: ``heard`` its tokens an attempt, ``unanswered`` how often an attempt asked it and it
    had nothing to say.
    """
    rollouts: list[Rollout] = [r for g in groups for r in g.rollouts]
    num = max(len(rollouts), 1)
    row: dict[str, Any] = {
        "reward": sum(r.reward for r in rollouts) / num,
        "length": sum(r.num_chosen for r in rollouts) / num,
        "num_rollouts": len(rollouts),
        "num_tokens": sum(r.num_chosen for r in rollouts),
    } | of_worlds(rollouts)
    if not imitates:
        row |= of_rewards(rollouts)
        row |= {"accuracy": sum(map(solved, rollouts)) / num} if decided(rollouts) else {}
        row |= {
            "truncated": sum(r.ended == "length" for r in rollouts) / num,
            "equal_groups": sum(map(_equal, groups)) / max(len(groups), 1),
        }
    return row


def of_updates(batch: Batch, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the updates saw, over the tokens of the rows that had a gradient.

    - ``num_updates``; ``num_learned`` rows with a gradient, counted at every pass
    - what the updates say of themselves, means over them: ``loss``, ``grad_norm``, ``value_loss`` and
      ``value_grad_norm`` (critic), those of ``KLBall``; ``lr`` the last one's;
      ``kl_step`` KL(before the step || after) where one update measured it (else ``Probe`` does, now and then)
    - ``entropy`` nats a token, of the distribution sampled from
    - ``logp_gap_mean``, ``logp_gap_max`` absolute difference between the sampler's and the learner's log-probabilities
      before the first update (over the whole batch where it was scored before, else over what that update looked at)
    - ``ratio_mean``, ``ratio_max`` of the surrogate's ratio (or of pi / pi_old); ``effective_share`` the effective
      sample size of these weights, (sum r)^2 / sum r^2, as a share of the tokens, the least of the updates
    - ``clip_low``, ``clip_high`` share of tokens whose gradient (or weight) was cut, by side
    """
    row: dict[str, Any] = {"num_updates": len(outcomes), "num_learned": sum(o.minibatch.num_rollouts for o in outcomes)}
    for key in dict.fromkeys(("loss", "grad_norm", *(k for o in outcomes for k in o.stats))):
        row[key] = sum(o.stats.get(key, 0.0) for o in outcomes) / max(len(outcomes), 1)
    row["lr"] = outcomes[-1].stats["lr"] if outcomes else 0.0
    if len(outcomes) == 1 and "kl_update" in row:
        row["kl_step"] = row["kl_update"]  # the step is that update
    seen = [(o.minibatch, o.trace) for o in outcomes if o.trace is not None]
    if not seen:
        return row
    row["entropy"] = _mean([t.entropy_NT[b.mask_NT] for b, t in seen])
    if batch.sampler_logp_NT is not None:
        row |= _gap(batch, outcomes)
        ratios = [t.ratio_NT[b.mask_NT] for b, t in seen]
        row |= {"ratio_mean": _mean(ratios), "ratio_max": max(float(r.max()) for r in ratios)}
        row["effective_share"] = min(float(r.sum() ** 2 / (r**2).sum() / len(r)) for r in ratios)
        row["clip_low"] = _mean([t.clipped_low_NT[b.mask_NT].float() for b, t in seen])
        row["clip_high"] = _mean([t.clipped_high_NT[b.mask_NT].float() for b, t in seen])
    return row


def of_batch(
    batch: Batch, attempted: Sequence[Group], recipe: Recipe, outcomes: Sequence[Outcome] = ()
) -> dict[str, Any]:
    """What the batch holds before its first update, for a recipe that acts.

    - ``num_problems`` tried, more than were asked for where dynamic sampling refilled; ``num_kept`` rows that stay
    - ``advantage_hard``, ``advantage_medium``, ``advantage_easy`` mean absolute advantage a token, over the problems of
      which less than a third, up to two thirds, more than that of the attempts are right, where something says so
    - ``reward_shaped`` mean outcome after shaping, less what the penalty costs in the reward
    - ``kl_reference`` mean k3 estimate of KL(pi || reference), nats a token, both as the learner scores them before the
      first update (over the whole batch where that was done, else over what that update looked at; the exact KL where
      the recipe computes it before)
    - ``explained_variance`` 1 - Var(G - V) / Var(G) over tokens, G the outcome: the reward to go with the advantage's
      gamma, which no value has a part in, whatever the critic is taught with. 1 is a perfect critic, 0 one that knows
      the mean only, less than 0 one that had better say nothing
    """
    if not recipe.acts:
        return {}
    row: dict[str, Any] = {"num_problems": len(attempted), "num_kept": batch.num_rollouts}
    if not batch.num_rollouts:
        return row
    if decided(r for g in attempted for r in g.rollouts):
        row |= _by_difficulty(batch, attempted)
    row["reward_shaped"] = float(batch.reward_N.mean())
    scored = _scored_first(batch, outcomes)
    if batch.reference_kl_NT is not None:
        row["kl_reference"] = _mean([batch.reference_kl_NT[batch.mask_NT]])
    elif scored.reference_logp_NT is not None and scored.old_logp_NT is not None:
        row["kl_reference"] = _mean([estimate_k3(scored.old_logp_NT, scored.reference_logp_NT)[scored.mask_NT]])
    if batch.reward_NT is not None and batch.value_NT is not None:
        outcome_NT = discounted(batch.reward_NT, batch.mask_NT, recipe.gamma)
        row["explained_variance"] = _explained(outcome_NT[batch.mask_NT], batch.value_NT[batch.mask_NT])
    return row


def _explained(outcome: Tensor, value: Tensor) -> float:
    """1 - Var(G - V) / Var(G); 0 where there is no token, or nothing to explain."""
    if not len(outcome) or bool(alike(outcome.amax(), outcome.amin())):
        return 0.0
    return 1 - float((outcome - value).var(correction=0)) / float(outcome.var(correction=0))


def of_correction(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """``correction_mean`` mean factor a token, ``correction_cut`` share of tokens bounded or dropped, over what the
    step's first update looked at; nothing in a recipe that trusts the sampler."""
    first = outcomes[0] if outcomes else None
    if first is None or first.trace is None or first.trace.correction_NT is None or first.trace.cut_NT is None:
        return {}
    mask_NT = first.minibatch.mask_NT
    return {
        "correction_mean": _mean([first.trace.correction_NT[mask_NT]]),
        "correction_cut": _mean([first.trace.cut_NT[mask_NT].float()]),
    }


def _equal(group: Group) -> bool:
    return bool(group.rollouts) and all_alike([r.reward for r in group.rollouts])


def _by_difficulty(batch: Batch, attempted: Sequence[Group]) -> dict[str, float]:
    share = {g.problem.id: sum(map(solved, g.rollouts)) / max(len(g.rollouts), 1) for g in attempted}
    share_N = torch.tensor([share[r.problem_id] for r in batch.rollouts], device=batch.mask_NT.device)
    size_NT = given(batch.advantage_NT, "advantage_NT").abs()
    bins = {"hard": share_N < 1 / 3, "medium": (share_N >= 1 / 3) & (share_N <= 2 / 3), "easy": share_N > 2 / 3}
    masks = {name: batch.mask_NT & inside_N[:, None] for name, inside_N in bins.items()}
    return {f"advantage_{name}": _mean([size_NT[mask]]) for name, mask in masks.items() if mask.any()}


def _scored_first(batch: Batch, outcomes: Sequence[Outcome]) -> Batch:
    """The batch if the learner scored it before the first update, else the rows that this update scored itself; without
    old log-probabilities if neither."""
    first = outcomes[0] if outcomes else None
    if batch.old_logp_NT is None and first is not None and first.trace is not None:
        return replace(first.minibatch, old_logp_NT=first.trace.logp_NT)
    return batch


def _gap(batch: Batch, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """How far sampler and learner are apart before anything was updated; nothing if nothing was scored by then."""
    batch = _scored_first(batch, outcomes)
    if batch.old_logp_NT is None or batch.sampler_logp_NT is None:
        return {}
    gap = (batch.old_logp_NT - batch.sampler_logp_NT)[batch.mask_NT].abs()
    return {"logp_gap_mean": float(gap.mean()), "logp_gap_max": float(gap.max())}


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())
