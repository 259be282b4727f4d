"""Slot ``correction``: what to do when the sampler and the learner disagree about a token's probability.

They do when one computes in lower precision, is another program, or has older weights. Each maps what was scored and a
batch to a constant factor per token, by which the surrogate (not the penalty) is multiplied; denominators stay. The
gap itself is in the journal of every step, whatever stands in this slot.

With c_t = pi_old(y_t) / mu(y_t), the learner's probability before the first update over the sampler's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.log_ratio import log_ratio_to_sampler
from upslope.algo.outcome import Scored
from upslope.algo.slots import Correction, Level, kind
from upslope.types import Batch, given


@kind("correction")
def no_correction(scored: Scored, batch: Batch) -> Tensor | None:
    """Trust the sampler: no weight per token."""
    return None


def disagreement(batch: Batch, level: Level) -> Tensor:
    """c_t, or prod_t c_t at every token of an attempt; of no meaning outside the mask."""
    log_NT = log_ratio_to_sampler(given(batch.old_logp_NT, "old_logp_NT"), batch).detach()
    return torch.exp(log_NT if level == "token" else log_NT.sum(dim=1, keepdim=True).expand_as(log_NT))


@kind("correction")
@dataclass(frozen=True)
class TruncatedWeights(Correction):
    """min(c, cap): importance weights from sampler to learner, bounded above (Ionides 2008; for language models Yao et
    al. 2025, "truncated importance sampling"). Unbiased while nothing is cut; what is cut counts too little."""

    cap: float = 2.0
    level: Level = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "sampler_logp"})

    def __post_init__(self) -> None:
        if not self.cap >= 1:
            raise ValueError(f"cap must be at least 1, not {self.cap}")

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return disagreement(batch, self.level).clamp(max=self.cap)

    def cut(self, scored: Scored, batch: Batch) -> Tensor:
        """bool NT: which tokens' weights were bounded."""
        return disagreement(batch, self.level) > self.cap


@kind("correction")
@dataclass(frozen=True)
class MaskedWeights(Correction):
    """c where low <= c <= high, else 0: what the two disagree about beyond reason teaches nothing (IcePop, Ling Team
    2025). The dropped tokens stay in the denominators, so a step with many of them is a smaller step."""

    low: float = 0.5
    high: float = 2.0
    level: Level = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "sampler_logp"})

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 <= self.high:
            raise ValueError(f"needs 0 <= low <= 1 <= high, not low={self.low}, high={self.high}")

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        weight_NT = disagreement(batch, self.level)
        return torch.where(self.cut(scored, batch), torch.zeros_like(weight_NT), weight_NT)

    def cut(self, scored: Scored, batch: Batch) -> Tensor:
        """bool NT: which tokens were dropped."""
        weight_NT = disagreement(batch, self.level)
        return (weight_NT < self.low) | (weight_NT > self.high)
