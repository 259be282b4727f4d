"""Which tokens of an update get a gradient: those that decide, and not those along which entropy collapses. Patches of
2025; all look at the whole update before it is cut."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.log_ratio import log_ratio_to_old, masked
from upslope.algo.outcome import Scored
from upslope.algo.slots import Correction, Regulariser, kind
from upslope.types import Batch, given


class FromUpdate(Correction):
    """A factor of 0 or 1 for each token, as it was seen in the whole update (``over_update``)."""

    reweighs: ClassVar[bool] = False

    def cut(self, scored: Scored, batch: Batch) -> Tensor:
        """bool NT: which tokens were dropped."""
        return batch.mask_NT & (batch.marks["correction"] == 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return batch.marks["correction"]


@kind("correction")
@dataclass(frozen=True)
class TopEntropy(FromUpdate):
    """1 for the ``share`` of the update's tokens where the policy was least sure, 0 for the rest (arXiv 2506.01939: the
    fifth with the most entropy does nearly all the learning). Denominators stay, so a step is smaller for it. share = 1
    keeps all. TRL's ``top_entropy_quantile`` is 1 - share, and its quantile is that of a micro-batch."""

    share: float = 0.2
    needs: ClassVar[frozenset[str]] = frozenset({"old_entropy"})

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is a share in (0, 1], not {self.share}")

    def over_update(self, batch: Batch) -> Tensor:
        return highest(given(batch.old_entropy_NT, "old_entropy_NT"), batch.mask_NT, self.share).to(
            batch.reward_N.dtype
        )


@kind("regulariser")
@dataclass(frozen=True)
class CovariancePenalty(Regulariser):
    """coefficient (r - 1 - log r), r = pi / pi_old, an estimate of KL(pi_old || pi), on the ``share`` of the update's
    tokens with the largest covariance of log-probability and advantage (KL-Cov, arXiv 2505.22617, equation 12), and
    nothing elsewhere. Those few tokens carry most of the fall of entropy. verl takes the absolute log r for the KL."""

    coefficient: float = 1.0
    share: float = 0.002
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "old_logp_before"})

    def __post_init__(self) -> None:
        if not (self.coefficient >= 0 and 0 < self.share <= 1):
            raise ValueError(f"needs coefficient >= 0 and 0 < share <= 1: {self}")

    @property
    def holds(self) -> bool:
        return self.coefficient > 0

    def over_update(self, batch: Batch) -> Tensor:
        return highest(covariance(batch), batch.mask_NT, self.share).to(batch.reward_N.dtype)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        difference_NT = log_ratio_to_old(scored.logp_NT, batch)
        return self.coefficient * batch.marks["regulariser"] * (torch.expm1(difference_NT) - difference_NT)


@kind("correction")
@dataclass(frozen=True)
class CovarianceClip(FromUpdate):
    """0 for a random ``share`` of the update's tokens, at least one, out of those whose covariance lies in [low, high];
    1 for the others (Clip-Cov, arXiv 2505.22617, equation 11). Which ones is a hash of problem, sample and place, never
    a generator."""

    share: float = 0.0002
    low: float = 1.0
    high: float = 5.0
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "old_logp_before"})

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and self.low <= self.high):
            raise ValueError(f"needs 0 < share <= 1 and low <= high: {self}")

    def over_update(self, batch: Batch) -> Tensor:
        value_NT = covariance(batch)
        inside_NT = batch.mask_NT & (value_NT >= self.low) & (value_NT <= self.high)
        places = inside_NT.nonzero().tolist()
        num = min(len(places), max(1, round(self.share * int(batch.mask_NT.sum()))))
        drawn = sorted(places, key=lambda at: lot(batch, *at))[:num]
        factor_NT = torch.ones_like(value_NT)
        for row, column in drawn:
            factor_NT[row, column] = 0
        return factor_NT


def covariance(batch: Batch) -> Tensor:
    """(log pi_old(y_t) - mean) (A_t - mean), means over all chosen tokens of the update; zero outside the mask."""
    parts = given(batch.old_logp_NT, "old_logp_NT"), given(batch.advantage_NT, "advantage_NT")
    if not batch.mask_NT.any():
        return torch.zeros_like(parts[0])
    logp_NT, advantage_NT = (part_NT - part_NT[batch.mask_NT].mean() for part_NT in parts)
    return masked(logp_NT * advantage_NT, batch)


def highest(value_NT: Tensor, mask_NT: Tensor, share: float) -> Tensor:
    """bool NT: the ``share`` of the chosen tokens with the highest values, at least one; the first of equal ones.

    Values are compared to 16 bits: all attempts at a problem begin in one state, and which of its copies came out
    larger in the last place is a matter of the processor.
    """
    num = int(mask_NT.sum())
    if not num:
        return torch.zeros_like(mask_NT)
    mantissa_K, exponent_K = torch.frexp(value_NT[mask_NT])
    order_K = torch.ldexp((mantissa_K * 2**16).round(), exponent_K).sort(descending=True, stable=True).indices
    chosen_K = torch.zeros(num, dtype=torch.bool, device=mask_NT.device)
    chosen_K[order_K[: max(1, round(share * num))]] = True
    return torch.zeros_like(mask_NT).masked_scatter(mask_NT, chosen_K)


def lot(batch: Batch, row: int, column: int) -> bytes:
    """What a token is sorted by: bytes that depend on nothing but which token it is."""
    rollout = batch.rollouts[row]
    text = f"{rollout.problem_id}\x00{rollout.sample}\x00{rollout.version}\x00{column}"
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
