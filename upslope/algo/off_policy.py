"""Which tokens are too far from the policy that drew them to teach anything: trust regions by masks, patches of 2025
and 2026. mu is the sampler's probability, as logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.algo.slots import Correction, Surrogate, kind
from upslope.types import Batch, given


@kind("surrogate")
@dataclass(frozen=True)
class BinaryDivergence(Surrogate):
    """r A, r = pi / mu, but nothing where A > 0 and pi - mu > delta, or A < 0 and pi - mu < -delta: DPPO with the
    binary total variation (arXiv 2602.04879). A ratio says little about a rare token: 0.001 to 0.003 is 3 by ratio and
    0.002 by probability. delta = 1 masks nothing: ``importance_ratio``."""

    delta: float = 0.2
    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp"})
    against_sampler: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"delta is a difference of probabilities in (0, 1], not {self.delta}")

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        difference_NT = logp_NT - given(batch.sampler_logp_NT, "sampler_logp_NT")
        return torch.where(batch.mask_NT, difference_NT, torch.zeros_like(difference_NT))

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: masked because the probability fell, or rose, far enough."""
        moved_NT = logp_NT.detach().exp() - given(batch.sampler_logp_NT, "sampler_logp_NT").exp()
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        return (moved_NT < -self.delta) & (advantage_NT < 0), (moved_NT > self.delta) & (advantage_NT > 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        low_NT, high_NT = self.clipped(scored.logp_NT, batch)
        value_NT = torch.exp(self.log_ratio(scored.logp_NT, batch)) * given(batch.advantage_NT, "advantage_NT")
        return torch.where(low_NT | high_NT, torch.zeros_like(value_NT), value_NT)


@kind("correction")
@dataclass(frozen=True)
class OffPolicyMask(Correction):
    """0 for a whole attempt with A < 0 and mean_t log(mu / pi) > delta, else 1 (DeepSeek-V3.2, arXiv 2512.02556,
    section 3.1): a wrong attempt that the present policy would hardly write teaches it nothing but noise. The paper
    names no delta; TRL suggests 0.5."""

    delta: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp"})
    reweighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.delta >= 0:
            raise ValueError(f"delta must be at least 0, not {self.delta}")

    def cut(self, scored: Scored, batch: Batch) -> Tensor:
        """bool NT: which tokens were dropped."""
        gap_NT = given(batch.sampler_logp_NT, "sampler_logp_NT") - scored.logp_NT.detach()
        sum_N1 = torch.where(batch.mask_NT, gap_NT, torch.zeros_like(gap_NT)).sum(dim=1, keepdim=True)
        far_N1 = sum_N1 / batch.mask_NT.sum(dim=1, keepdim=True).clamp(min=1) > self.delta
        return far_N1 & (given(batch.advantage_NT, "advantage_NT") < 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return (~self.cut(scored, batch)).to(scored.logp_NT.dtype)


@kind("correction")
@dataclass(frozen=True)
class SecondMoment(Correction):
    """0 for the tokens with the largest (log r)^2, r = pi_old / mu, as many as make its mean over the rest of the
    update at most tau; 1 for the others (M2PO, arXiv 2510.01161). The second moment bounds the variance of the
    weights, which a clip range does not. As in AReaL r is that of the policy before the step."""

    tau: float = 0.04
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp", "old_logp_before", "sampler_logp"})
    reweighs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, not {self.tau}")

    def over_update(self, batch: Batch) -> Tensor:
        log_NT = given(batch.old_logp_NT, "old_logp_NT") - given(batch.sampler_logp_NT, "sampler_logp_NT")
        square_K, order_K = (log_NT[batch.mask_NT] ** 2).sort(stable=True)
        mean_K = square_K.cumsum(0) / torch.arange(1, len(square_K) + 1, device=log_NT.device)
        kept_K = torch.zeros_like(square_K).index_put((order_K,), (mean_K <= self.tau).to(square_K.dtype))
        return torch.zeros_like(log_NT).masked_scatter(batch.mask_NT, kept_K)

    def cut(self, scored: Scored, batch: Batch) -> Tensor:
        """bool NT: which tokens were dropped."""
        return batch.mask_NT & (batch.marks["correction"] == 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return batch.marks["correction"]
