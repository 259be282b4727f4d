"""Which tokens are too far from the policy that drew them to teach anything: trust regions by masks, patches of 2025
and 2026. mu is the sampler's probability, as logged."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.log_ratio import log_ratio_to_sampler, mean_of_attempt
from upslope.algo.outcome import Scored
from upslope.algo.slots import Correction, Surrogate, kind
from upslope.types import Batch, given


class AgainstSampler(Surrogate):
    """r A with r = pi / mu, for the tokens that are not dropped."""

    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp"})
    against_sampler: ClassVar[bool] = True

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        return log_ratio_to_sampler(logp_NT, batch)

    @abstractmethod
    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]: ...

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        low_NT, high_NT = self.clipped(scored.logp_NT, batch)
        dropped_NT = low_NT | high_NT
        # Before anything is computed of it: a ratio that overflows has no gradient that a mask could make 0.
        difference_NT = self.log_ratio(scored.logp_NT, batch).masked_fill(dropped_NT, 0)
        value_NT = torch.exp(difference_NT) * given(batch.advantage_NT, "advantage_NT")
        return value_NT.masked_fill(dropped_NT, 0)


@kind("surrogate")
@dataclass(frozen=True)
class BinaryDivergence(AgainstSampler):
    """r A, r = pi / mu, but nothing where A > 0 and pi - mu > delta, or A < 0 and pi - mu < -delta: DPPO with the
    binary total variation (arXiv 2602.04879, equations 12 and 13). A ratio says little about a rare token: 0.001 to
    0.003 is 3 by ratio and 0.002 by probability. delta = 1 masks nothing: ``importance_ratio``."""

    delta: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"delta is a difference of probabilities in (0, 1], not {self.delta}")

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: masked because the probability fell, or rose, far enough."""
        moved_NT = logp_NT.detach().exp() - given(batch.sampler_logp_NT, "sampler_logp_NT").exp()
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        return (moved_NT < -self.delta) & (advantage_NT < 0), (moved_NT > self.delta) & (advantage_NT > 0)


@kind("surrogate")
@dataclass(frozen=True)
class SecondMoment(AgainstSampler):
    """r A, r = pi / mu. Of the update's tokens that go on moving away from mu (A > 0 and r > 1, or A < 0 and r < 1)
    those with the largest (log r)^2 are dropped, as many as make its mean over the rest of them at most tau (M2PO,
    arXiv 2510.01161, algorithm 1, equations 4 and 5). The second moment bounds the variance of the weights, which a
    clip range does not. r in the mask is that of the policy before this very update. AReaL differs: it takes
    pi_old / mu, looks at all tokens, and has the mask beside PPO's clip."""

    tau: float = 0.04
    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp", "present_logp"})

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0, not {self.tau}")

    def over_update(self, batch: Batch) -> Tensor:
        log_NT = self.log_ratio(given(batch.present_logp_NT, "present_logp_NT"), batch)
        away_NT = batch.mask_NT & (log_NT * given(batch.advantage_NT, "advantage_NT") > 0)
        square_K, order_K = (log_NT[away_NT] ** 2).sort(stable=True)
        mean_K = square_K.cumsum(0) / torch.arange(1, len(square_K) + 1, device=log_NT.device)
        kept_K = torch.zeros_like(square_K).index_put((order_K,), (mean_K <= self.tau).to(square_K.dtype))
        return torch.ones_like(log_NT).masked_scatter(away_NT, kept_K)

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: dropped, with a ratio below and above 1."""
        gone_NT, fell_NT = batch.marks["surrogate"] == 0, given(batch.advantage_NT, "advantage_NT") < 0
        return gone_NT & fell_NT, gone_NT & ~fell_NT


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
        far_N1 = -mean_of_attempt(log_ratio_to_sampler(scored.logp_NT.detach(), batch), batch) > self.delta
        return far_N1 & (given(batch.advantage_NT, "advantage_NT") < 0)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return (~self.cut(scored, batch)).to(scored.logp_NT.dtype)
