"""The objective every recipe shares: sum_n weight_n sum_t (surrogate_nt - leash_nt), over chosen tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from upslope.algo.surrogate import given
from upslope.types import Batch

if TYPE_CHECKING:
    from upslope.algo.recipe import Recipe

Stats = dict[str, float]


@dataclass(frozen=True)
class Scored:
    """What the learner's forward pass says about the sampled tokens; zeros outside the mask."""

    logp_NT: Tensor
    """log pi(y_t) at the sampling temperature, with gradient."""
    entropy_NT: Tensor
    """Entropy of the distribution y_t was drawn from, in nats, without gradient."""


@dataclass(frozen=True)
class Trace:
    """What happened to every token of a batch in one pass, without gradient; kept for journal and rollout files."""

    logp_NT: Tensor
    entropy_NT: Tensor
    ratio_NT: Tensor
    clipped_low_NT: Tensor
    clipped_high_NT: Tensor

    @staticmethod
    def join(traces: Sequence[Trace]) -> Trace | None:
        """The traces of consecutive micro-batches as one; None of none."""
        if not traces:
            return None
        return Trace(*(torch.cat([getattr(t, f.name) for t in traces]) for f in fields(Trace)))


@dataclass(frozen=True)
class Outcome:
    """What one update looked at and what came of it."""

    minibatch: Batch
    """The rows that had a gradient."""
    trace: Trace | None
    """Their tokens before the update; None if no row had a gradient."""
    stats: Stats


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
