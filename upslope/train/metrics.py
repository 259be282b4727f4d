"""One line of the journal from what a step did. Every mean is a sum over tokens (or attempts) divided once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.outcome import Outcome
from upslope.train.evaluate import solved
from upslope.types import Batch, Group, Rollout


def of_attempts(groups: Sequence[Group], *, imitates: bool) -> dict[str, Any]:
    """What was attempted, before anything was filtered.

    ``reward`` mean reward; ``accuracy`` share with full marks; ``length`` tokens an attempt; ``truncated`` share cut
    by the limit; ``equal_groups`` share of problems whose attempts all earned the same.
    """
    rollouts: list[Rollout] = [r for g in groups for r in g.rollouts]
    num = max(len(rollouts), 1)
    row: dict[str, Any] = {
        "reward": sum(r.reward for r in rollouts) / num,
        "length": sum(len(r.response) for r in rollouts) / num,
        "num_rollouts": len(rollouts),
        "num_tokens": sum(len(r.response) for r in rollouts),
    }
    if not imitates:
        row |= {
            "accuracy": sum(map(solved, rollouts)) / num,
            "truncated": sum(r.ended == "length" for r in rollouts) / num,
            "equal_groups": sum(len({r.reward for r in g.rollouts}) == 1 for g in groups) / max(len(groups), 1),
        }
    return row


def of_updates(batch: Batch, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the updates saw, over the tokens of the rows that had a gradient.

    - ``num_updates``; ``num_learned`` rows with a gradient, counted at every pass
    - ``loss`` and ``grad_norm`` means over the step's updates; ``lr`` the last one's
    - ``entropy`` nats a token, of the distribution sampled from
    - ``logp_gap_mean``, ``logp_gap_max`` absolute difference between the sampler's and the learner's log-probabilities
      before the first update (over the whole batch where it was scored before, else over what that update looked at)
    - ``ratio_mean``, ``ratio_max`` pi / pi_old; ``clip_low``, ``clip_high`` share of tokens whose gradient was cut
    """
    row: dict[str, Any] = {"num_updates": len(outcomes), "num_learned": sum(o.minibatch.num_rollouts for o in outcomes)}
    for key in ("loss", "grad_norm"):
        row[key] = sum(o.stats[key] for o in outcomes) / max(len(outcomes), 1)
    row["lr"] = outcomes[-1].stats["lr"] if outcomes else 0.0
    seen = [(o.minibatch, o.trace) for o in outcomes if o.trace is not None]
    if not seen:
        return row
    row["entropy"] = _mean([t.entropy_NT[b.mask_NT] for b, t in seen])
    if batch.sampler_logp_NT is not None:
        row |= _gap(batch, outcomes[0])
        ratios = [t.ratio_NT[b.mask_NT] for b, t in seen]
        row |= {"ratio_mean": _mean(ratios), "ratio_max": max(float(r.max()) for r in ratios)}
        row["clip_low"] = _mean([t.clipped_low_NT[b.mask_NT].float() for b, t in seen])
        row["clip_high"] = _mean([t.clipped_high_NT[b.mask_NT].float() for b, t in seen])
    return row


def _gap(batch: Batch, first: Outcome) -> dict[str, float]:
    """How far sampler and learner are apart before anything was updated; nothing if nothing was scored by then."""
    if batch.old_logp_NT is None and first.trace is not None:
        batch = replace(first.minibatch, old_logp_NT=first.trace.logp_NT)
    if batch.old_logp_NT is None or batch.sampler_logp_NT is None:
        return {}
    gap = (batch.old_logp_NT - batch.sampler_logp_NT)[batch.mask_NT].abs()
    return {"logp_gap_mean": float(gap.mean()), "logp_gap_max": float(gap.max())}


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())
