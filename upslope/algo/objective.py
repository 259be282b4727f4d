"""The objective every recipe shares: sum_n weight_n sum_t (surrogate_nt - leash_nt), over chosen tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.algo.outcome import Scored, Trace
from upslope.algo.recipe import Recipe
from upslope.algo.surrogate import given
from upslope.types import Batch


@dataclass(frozen=True)
class Objective:
    """A recipe's surrogate, regulariser and correction, applied to a batch that ``prepare`` has filled."""

    recipe: Recipe

    def __call__(self, scored: Scored, batch: Batch) -> tuple[Tensor, Trace]:
        """(loss, trace). The loss is the negative objective of exactly these rows; parts of a batch add up.

        Masking happens before any arithmetic as well as after: a NaN or an overflow in padding would otherwise come
        back through the gradient of the mask (NaN times zero is NaN).
        """
        zero = scored.logp_NT.new_zeros(())
        logp_NT = torch.where(batch.mask_NT, scored.logp_NT, zero)
        value_NT = self.recipe.surrogate(logp_NT, batch)
        leash_NT = self.recipe.regulariser(logp_NT, batch)
        if leash_NT is not None:
            value_NT = value_NT - leash_NT
        correction_NT = self.recipe.correction(batch)
        if correction_NT is not None:
            value_NT = value_NT * correction_NT
        weight_N = given(batch.weight_N, "weight_N")
        loss = -(weight_N[:, None] * torch.where(batch.mask_NT, value_NT, zero)).sum()
        return loss, self.trace(logp_NT.detach(), scored.entropy_NT, batch)

    def trace(self, logp_NT: Tensor, entropy_NT: Tensor, batch: Batch) -> Trace:
        """Ratio and clipping of every token; the ratio is to the old policy, 1 where the recipe keeps none."""
        old_NT = logp_NT if batch.old_logp_NT is None else batch.old_logp_NT
        mark = getattr(self.recipe.surrogate, "clipped", None)
        none_NT = torch.zeros_like(batch.mask_NT)
        low_NT, high_NT = mark(logp_NT, batch) if mark else (none_NT, none_NT)
        return Trace(logp_NT, entropy_NT, torch.exp(logp_NT - old_NT), low_NT & batch.mask_NT, high_NT & batch.mask_NT)
