"""The objective every recipe shares: sum_n weight_n sum_t (correction_nt * surrogate_nt - penalty_nt), over chosen
tokens; and beside it the critic's loss, sum_n value_weight_n sum_t error_nt, where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.algo.outcome import Losses, Scored, Trace
from upslope.algo.recipe import Recipe
from upslope.types import Batch, given


@dataclass(frozen=True)
class Objective:
    """A recipe's surrogate, correction, regulariser and critic, applied to a batch that ``prepare`` has filled."""

    recipe: Recipe

    def __call__(self, scored: Scored, batch: Batch) -> tuple[Losses, Trace]:
        """(losses, trace). The losses are those of exactly these rows; parts of a batch add up.

        Masking happens before any arithmetic as well as after: a NaN or an overflow in padding would otherwise come
        back through the gradient of the mask (NaN times zero is NaN).
        """
        value_NT = None if scored.value_NT is None else masked(scored.value_NT, batch)
        scored = replace(scored, logp_NT=masked(scored.logp_NT, batch), value_NT=value_NT)
        push_NT = self.recipe.surrogate(scored.logp_NT, batch)
        correction_NT = self.recipe.correction(batch)
        if correction_NT is not None:
            push_NT = push_NT * correction_NT
        penalty_NT = self.recipe.regulariser(scored, batch)
        if penalty_NT is not None:
            push_NT = push_NT - penalty_NT
        error_NT = self.recipe.critic(scored, batch)
        losses = Losses(
            policy=-weighted_sum(push_NT, batch.weight_N, "weight_N", batch),
            value=None if error_NT is None else weighted_sum(error_NT, batch.value_weight_N, "value_weight_N", batch),
        )
        return losses, self.trace(scored.logp_NT.detach(), scored.entropy_NT.detach(), batch)

    def trace(self, logp_NT: Tensor, entropy_NT: Tensor, batch: Batch) -> Trace:
        """Ratio and clipping of every token: the surrogate's own ratio, else the one to the old policy if known."""
        log_ratio = getattr(self.recipe.surrogate, "log_ratio", None)
        if log_ratio is not None:
            ratio_NT = torch.exp(log_ratio(logp_NT, batch))
        else:
            old_NT = logp_NT if batch.old_logp_NT is None else batch.old_logp_NT
            ratio_NT = torch.exp(logp_NT - old_NT)
        mark = getattr(self.recipe.surrogate, "clipped", None)
        none_NT = torch.zeros_like(batch.mask_NT)
        low_NT, high_NT = mark(logp_NT, batch) if mark else (none_NT, none_NT)
        return Trace(logp_NT, entropy_NT, ratio_NT, low_NT & batch.mask_NT, high_NT & batch.mask_NT)


def masked(value_NT: Tensor, batch: Batch) -> Tensor:
    """Zero outside the mask, in value and in gradient."""
    return torch.where(batch.mask_NT, value_NT, value_NT.new_zeros(()))


def weighted_sum(value_NT: Tensor, weight_N: Tensor | None, name: str, batch: Batch) -> Tensor:
    """sum_n weight_n sum_t value_nt over chosen tokens: the one reduction there is."""
    return (given(weight_N, name)[:, None] * masked(value_NT, batch)).sum()
