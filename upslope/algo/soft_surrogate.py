"""Surrogates that fade where a clip cuts: patches of 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.log_ratio import log_ratio_to_old, mean_of_attempt
from upslope.algo.outcome import Scored
from upslope.algo.slots import Surrogate, kind
from upslope.types import Batch, given


@kind("surrogate")
@dataclass(frozen=True)
class SoftGate(Surrogate):
    """(4 / tau) sigmoid(tau (r - 1)) A, r = pi / pi_old, tau ``positive`` where A > 0 and ``negative`` where A < 0
    (SAPO, arXiv 2511.20347). At r = 1 its gradient is that of r A (4 / tau times tau / 4), and it fades on both
    sides; the value there is 2 A / tau, a constant more or less. A larger ``negative`` lets go of bad tokens sooner."""

    positive: float = 1.0
    negative: float = 1.05
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    def __post_init__(self) -> None:
        if not (self.positive > 0 and self.negative > 0):
            raise ValueError(f"temperatures must be above 0: {self}")

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        return log_ratio_to_old(logp_NT, batch)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        tau_NT = torch.where(advantage_NT > 0, self.positive, self.negative).to(advantage_NT.dtype)
        ratio_NT = torch.exp(self.log_ratio(scored.logp_NT, batch))
        return 4 / tau_NT * torch.sigmoid(tau_NT * (ratio_NT - 1)) * advantage_NT


@kind("surrogate")
@dataclass(frozen=True)
class GeometricMean(Surrogate):
    """A exp(mean_t l_t), l_t = min(log r_t, width) where A > 0 and max(log r_t, -width) where A < 0 (GMPO, arXiv
    2507.20673): the geometric mean of token ratios, each clipped by itself, where GSPO clips the mean. The paper's
    range is (e^-0.4, e^0.4). At r = 1 it is ``sequence_ratio``; summed with ``sequence_mean`` an attempt counts
    once."""

    width: float = 0.4
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})
    one_ratio: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width must be above 0, not {self.width}")

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        log_NT, good_NT = log_ratio_to_old(logp_NT, batch), given(batch.advantage_NT, "advantage_NT") > 0
        bounded_NT = torch.where(good_NT, log_NT.clamp(max=self.width), log_NT.clamp(min=-self.width))
        return mean_of_attempt(bounded_NT, batch).expand_as(log_NT)

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: this token's own ratio was bounded, so it has no part in the gradient."""
        log_NT, advantage_NT = log_ratio_to_old(logp_NT.detach(), batch), given(batch.advantage_NT, "advantage_NT")
        return (log_NT < -self.width) & (advantage_NT < 0), (log_NT > self.width) & (advantage_NT > 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        return torch.exp(self.log_ratio(scored.logp_NT, batch)) * given(batch.advantage_NT, "advantage_NT")
