"""Slot ``regulariser``: what penalty. A cost per token that the objective subtracts, or that the reward pays.

Everything here but the entropy bonus estimates KL(pi || reference), the distance to a *frozen reference*; the distance
of one step, KL(pi_old || pi), is the business of ``update`` and is called ``kl_step`` everywhere.

With d_t = log pi(y_t) - log ref(y_t) and y_t drawn from pi (Schulman, "Approximating KL divergence", 2020)::

    k1 = d        unbiased; high variance; negative half of the time
    k2 = d^2 / 2  biased; low variance
    k3 = e^-d - 1 + d   unbiased, low variance, never negative

An estimator of the KL is not an estimator of its gradient. ``place`` says where it acts:

- ``"loss"``: coefficient * k is added to the loss and differentiated as it stands. On policy the expected gradient is
  zero for k1, the KL's own for k2 (state by state), and that of the *other* direction, KL(reference || pi), for k3.
  ``weighted`` multiplies it by the ratio pi(y_t) / pi_old(y_t), with gradient: then its expectation over old samples
  is the KL of every state for k1 and k3, and so its gradient is the KL's (arXiv 2512.02556, "unbiased KL estimate").
- ``"reward"``: coefficient * k, a number, is taken from the token's reward, and the policy gradient does the rest
  (arXiv 1909.08593, equation 2). The learner scores policy and reference for it before the first update. For k1 this
  is unbiased for the gradient of the KL of whole responses, later tokens included, which no estimator in the loss is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.algo.slots import Place, Regulariser, kind
from upslope.types import Batch, given


@kind("regulariser", place=None)
def no_penalty(scored: Scored, batch: Batch) -> Tensor | None:
    """Nothing holds the policy back. None rather than zeros: rows without advantage may then be skipped exactly."""
    return None


def estimate_k1(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """d = log pi - log ref."""
    return logp_NT - reference_NT


def estimate_k2(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """d^2 / 2."""
    return (logp_NT - reference_NT) ** 2 / 2


def estimate_k3(logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """e^-d - 1 + d; expm1 keeps the digits that 1 would swallow near d = 0."""
    difference_NT = logp_NT - reference_NT
    return torch.expm1(-difference_NT) + difference_NT


@dataclass(frozen=True)
class SampledPenalty(Regulariser):
    """What k1, k2 and k3 share: a coefficient, a place, and an estimate from the sampled tokens alone."""

    coefficient: float = 0.05
    place: Place = "loss"
    weighted: bool = False

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient must be at least 0, not {self.coefficient}")
        if self.weighted and self.place == "reward":
            raise ValueError("weighted is about the gradient in the loss; a cost in the reward has none")

    @property
    def holds(self) -> bool:
        return self.coefficient > 0

    @property
    def needs(self) -> frozenset[str]:
        if self.place == "reward":
            return frozenset({"reference_logp", "old_logp_before"})
        return frozenset({"reference_logp", "old_logp"} if self.weighted else {"reference_logp"})

    def estimate(self, logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        if self.place == "reward":
            return None
        cost_NT = self._masked(scored.logp_NT, batch)
        if self.weighted:
            cost_NT = cost_NT * torch.exp(scored.logp_NT - given(batch.old_logp_NT, "old_logp_NT"))
        return self.coefficient * cost_NT

    def cost(self, batch: Batch) -> Tensor:
        """What every token pays in the reward, under the policy that acted; constant, zero outside the mask.

        Both log-probabilities are the learner's: the sampler's own would add the rounding of another program to d, and
        a policy equal to its reference would pay for that, where it owes exactly nothing.
        """
        return self.coefficient * self._masked(given(batch.old_logp_NT, "old_logp_NT").detach(), batch)

    def _masked(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        zero = torch.zeros((), dtype=logp_NT.dtype, device=logp_NT.device)
        inside_NT = torch.where(batch.mask_NT, logp_NT, zero)
        reference_NT = torch.where(batch.mask_NT, given(batch.reference_logp_NT, "reference_logp_NT"), zero)
        return self.estimate(inside_NT, reference_NT)


@kind("regulariser")
@dataclass(frozen=True)
class K1(SampledPenalty):
    """d = log pi - log ref. In the reward: unbiased, the penalty of PPO. In the loss its expected gradient is zero on
    policy, so it holds nothing there unless ``weighted``."""

    place: Place = "reward"

    def estimate(self, logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
        return estimate_k1(logp_NT, reference_NT)


@kind("regulariser")
@dataclass(frozen=True)
class K2(SampledPenalty):
    """d^2 / 2. In the loss its expected gradient on policy is that of every state's KL(pi || ref), though its value is
    not the KL. ``weighted``, it is a biased value with a biased gradient: prefer it plain."""

    def estimate(self, logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
        return estimate_k2(logp_NT, reference_NT)


@kind("regulariser")
@dataclass(frozen=True)
class K3(SampledPenalty):
    """e^-d - 1 + d, the penalty of GRPO (arXiv 2402.03300, equation 4). In the loss its expected gradient on policy is
    not that of KL(pi || ref) but of KL(ref || pi); ``weighted`` mends that."""

    coefficient: float = 0.04

    def estimate(self, logp_NT: Tensor, reference_NT: Tensor) -> Tensor:
        return estimate_k3(logp_NT, reference_NT)


@kind("regulariser")
@dataclass(frozen=True)
class ExactKL(Regulariser):
    """sum_v pi(v) (log pi(v) - log ref(v)) over the whole vocabulary at every sampled state: no noise from the token.

    In the loss its gradient is that of every state's KL exactly; that the states themselves would change is left out.
    In the reward it is the other way round: it steers towards states of less KL, and at a state itself it holds nothing
    (a constant there has no gradient), so the two together make the gradient of the whole response's KL.

    It costs a forward pass of the reference at every pass, where the sampled estimators need one a step.
    """

    coefficient: float = 0.05
    place: Place = "loss"

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient must be at least 0, not {self.coefficient}")

    @property
    def holds(self) -> bool:
        return self.coefficient > 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference_kl" if self.place == "loss" else "reference_kl_before", "reference_logp"})

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        if self.place == "reward":
            return None
        return self.coefficient * given(scored.reference_kl_NT, "reference_kl_NT")

    def cost(self, batch: Batch) -> Tensor:
        """What every token pays in the reward, under the policy that acted; constant, zero outside the mask."""
        return self.coefficient * given(batch.reference_kl_NT, "reference_kl_NT")


@kind("regulariser")
@dataclass(frozen=True)
class EntropyBonus(Regulariser):
    """-coefficient * H(pi) at every sampled state, exactly: a reward for staying undecided (arXiv 1602.01783)."""

    coefficient: float = 0.01
    place: ClassVar[Place] = "loss"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy_gradient"})

    def __post_init__(self) -> None:
        if not self.coefficient >= 0:
            raise ValueError(f"coefficient must be at least 0, not {self.coefficient}")

    @property
    def holds(self) -> bool:
        return self.coefficient > 0

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        return -self.coefficient * scored.entropy_NT
