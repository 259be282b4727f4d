"""The objective every recipe shares: sum_nt weight_nt (correction_nt * surrogate_nt - penalty_nt), over chosen tokens;
and beside it the critic's loss, sum_nt value_weight_nt error_nt, where there is one."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.log_ratio import masked
from upslope.algo.outcome import Losses, Scored, Trace
from upslope.algo.recipe import Recipe
from upslope.algo.wanted import require_rectangle
from upslope.types import Batch, given


@dataclass(frozen=True)
class Objective:
    """A recipe's surrogate, correction, regulariser and critic, applied to a batch that ``prepare`` has filled."""

    recipe: Recipe

    def __call__(self, scored: Scored, batch: Batch) -> tuple[Losses, Trace]:
        """(losses, trace). The losses are those of exactly these rows; parts of a batch add up.

        Masking happens before any arithmetic as well as after: a NaN or an overflow in padding would otherwise come
        back through the gradient of the mask (NaN times zero is NaN). Raises UserError for a slot that gives anything
        but one value a token.
        """
        value_NT = None if scored.value_NT is None else masked(scored.value_NT, batch)
        scored = replace(scored, logp_NT=masked(scored.logp_NT, batch), value_NT=value_NT)
        push_NT = self._checked("surrogate", self.recipe.surrogate(scored, batch), batch)
        correction_NT = self.recipe.correction(scored, batch)
        if correction_NT is not None:
            correction_NT = self._checked("correction", correction_NT, batch).detach()
            push_NT = push_NT * correction_NT
        penalty_NT = self.recipe.regulariser(scored, batch)
        if penalty_NT is not None:
            push_NT = push_NT - self._checked("regulariser", penalty_NT, batch)
        error_NT = self.recipe.critic(scored, batch)
        value = None
        if error_NT is not None:
            error_NT = self._checked("critic", error_NT, batch)
            value = weighted_sum(error_NT, batch.value_weight_NT, "value_weight_NT", batch)
        losses = Losses(-weighted_sum(push_NT, batch.weight_NT, "weight_NT", batch), value)
        return losses, self.trace(scored, batch, correction_NT)

    def trace(self, scored: Scored, batch: Batch, correction_NT: Tensor | None) -> Trace:
        """Ratio, clipping and correction of every token."""
        logp_NT, surrogate = scored.logp_NT.detach(), self.recipe.asked("surrogate")
        ratio_NT = torch.exp(surrogate.log_ratio(logp_NT, batch))
        none_NT = torch.zeros_like(batch.mask_NT)
        low_NT, high_NT = surrogate.clipped(logp_NT, batch) or (none_NT, none_NT)
        cut_NT = None
        if correction_NT is not None:
            cut_NT = self.recipe.asked("correction").cut(scored, batch)
            cut_NT = none_NT if cut_NT is None else cut_NT
        marks = (low_NT & batch.mask_NT, high_NT & batch.mask_NT)
        top = (scored.top_NTK, scored.top_logp_NTK)
        return Trace(logp_NT, scored.entropy_NT.detach(), ratio_NT, *marks, correction_NT, cut_NT, None, *top)

    def marked(self, batch: Batch) -> Batch:
        """The batch with what its slots see in the whole update (``Slot.over_update``)."""
        found = {f.name: self.recipe.asked(f.name).over_update(batch) for f in fields(Recipe)}
        marks = {slot: mark for slot, mark in found.items() if mark is not None}
        for slot, mark in marks.items():
            require_rectangle(slot, getattr(self.recipe, slot), mark, batch, of="over_update")
        return replace(batch, marks=marks) if marks else batch

    def with_old(self, batch: Batch, logp_NT: Tensor) -> Batch:
        """The batch with these log-probabilities, detached, as the old ones, where the recipe needs some and none are
        there: before a first update the old policy is the present one."""
        if "old_logp" not in self.recipe.needs or batch.old_logp_NT is not None:
            return batch
        return replace(batch, old_logp_NT=masked(logp_NT.detach(), batch))

    def without_gradient(self, batch: Batch) -> list[bool]:
        """Which rows have no gradient whatever the policy says: no advantage anywhere, no penalty, and no critic to
        teach.

        Skipping their forward pass is exact because the weights, with all denominators, are already fixed.
        """
        if self.recipe.penalised or self.recipe.has_critic:
            pushed_NT = batch.mask_NT
        else:
            pushed_NT = masked(given(batch.advantage_NT, "advantage_NT"), batch) != 0
        return (~(pushed_NT & (given(batch.weight_NT, "weight_NT") != 0)).any(dim=1)).tolist()

    def _checked(self, slot: str, found: Any, batch: Batch) -> Tensor:
        return require_rectangle(slot, getattr(self.recipe, slot), found, batch)


def weighted_sum(value_NT: Tensor, weight_NT: Tensor | None, name: str, batch: Batch) -> Tensor:
    """sum_nt weight_nt value_nt over chosen tokens: the one reduction there is."""
    return (given(weight_NT, name) * masked(value_NT, batch)).sum()
