"""Slot ``surrogate``: what is pushed. One value per token, to be made larger; the reduction happens elsewhere.

Each maps ``(scored, batch)`` to ``value_NT``, where ``scored.logp_NT`` carries the gradient and everything in the batch
is constant. Two methods are optional: ``log_ratio`` is the logarithm of what the advantage is multiplied by, and
``clipped`` marks the tokens whose gradient was cut, by side.

All of them have value and gradient of their parent where the policy has not moved: r = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from upslope.algo.log_ratio import log_ratio_to_old, log_ratio_to_sampler, mean_of_attempt
from upslope.algo.outcome import Scored
from upslope.algo.slots import Surrogate, kind
from upslope.types import Batch, given


@kind("surrogate", has_ratio=False)
def likelihood(scored: Scored, batch: Batch) -> Tensor:
    """A_t * log pi(y_t | ...): its gradient is the score function's, A_t * grad log pi (Williams 1992)."""
    return given(batch.advantage_NT, "advantage_NT") * scored.logp_NT


def require_range(low: float, high: float) -> None:
    """Raise ValueError unless 1 - low and 1 + high enclose 1 and leave ratios positive."""
    if not 0 <= low <= 1 or not high >= 0:
        raise ValueError(f"clip range needs 0 <= low <= 1 and high >= 0, not low={low}, high={high}")


def pessimistic(ratio_NT: Tensor, advantage_NT: Tensor, low: float, high: float) -> Tensor:
    """min(r A, clip(r, 1 - low, 1 + high) A)."""
    return torch.minimum(ratio_NT * advantage_NT, ratio_NT.clamp(1 - low, 1 + high) * advantage_NT)


def cut_sides(ratio_NT: Tensor, advantage_NT: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """(low_NT, high_NT), bool: where that minimum has no gradient because the ratio fell, or rose, far enough."""
    return (ratio_NT < 1 - low) & (advantage_NT < 0), (ratio_NT > 1 + high) & (advantage_NT > 0)


@kind("surrogate")
@dataclass(frozen=True)
class ImportanceRatio(Surrogate):
    """r_t A_t with r_t = pi(y_t) / mu(y_t), mu the distribution logged when y_t was drawn (detached).

    ``level="token"``: each token's own ratio, the surrogate of TRPO and PPO (arXiv 1502.05477, equation 3). It leaves
    out that the earlier tokens were drawn from mu too, so it is exact to first order around pi = mu only.
    ``level="trajectory"``: prod_t r_t, one weight for the attempt: unbiased for any pi, with a variance that grows
    exponentially with length. Its value is spread evenly, so that a sum over tokens gives w A once.
    """

    level: Literal["token", "trajectory"] = "token"
    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp"})
    against_sampler: ClassVar[bool] = True

    @property
    def one_ratio(self) -> bool:
        return self.level == "trajectory"

    @property
    def weighs_attempts(self) -> bool:
        return self.level == "trajectory"

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        difference_NT = log_ratio_to_sampler(logp_NT, batch)
        if self.level == "token":
            return difference_NT
        return difference_NT.sum(dim=1, keepdim=True).expand_as(difference_NT)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        value_NT = torch.exp(self.log_ratio(scored.logp_NT, batch)) * given(batch.advantage_NT, "advantage_NT")
        if self.level == "token":
            return value_NT
        return value_NT / batch.mask_NT.sum(dim=1, keepdim=True).clamp(min=1)


@kind("surrogate")
@dataclass(frozen=True)
class ClippedRatio(Surrogate):
    """min(r A, clip(r, 1 - low, 1 + high) A), r = pi(y_t) / pi_old(y_t) (PPO, arXiv 1707.06347, equation 7).

    With A > 0 the gradient vanishes once r > 1 + high, with A < 0 once r < 1 - low: a token that already moved far
    enough in the wanted direction is left alone. At r = 1 value and gradient are those of r A. The minimum makes it a
    lower bound of r A.

    high > low is clip-higher (DAPO, arXiv 2503.14476, section 3.1): unlikely tokens get room to rise.
    ``dual`` > 1 bounds it from below by dual * A where A < 0 (dual clip, arXiv 1912.09729, equation 5), so that one
    token with a huge ratio cannot dominate; 0 is off, as in the paper of PPO (verl has it always on, at 3).
    """

    low: float = 0.2
    high: float = 0.2
    dual: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    def __post_init__(self) -> None:
        require_range(self.low, self.high)
        if self.dual and not self.dual > 1:
            raise ValueError(f"dual is 0 (off) or a bound above 1, not {self.dual}")

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        return log_ratio_to_old(logp_NT, batch)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(self.log_ratio(scored.logp_NT, batch))
        value_NT = pessimistic(ratio_NT, advantage_NT, self.low, self.high)
        if self.dual:
            value_NT = torch.where(advantage_NT < 0, torch.maximum(value_NT, self.dual * advantage_NT), value_NT)
        return value_NT

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: the gradient was cut because the ratio fell, or rose, far enough."""
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(self.log_ratio(logp_NT.detach(), batch))
        low_NT, high_NT = cut_sides(ratio_NT, advantage_NT, self.low, self.high)
        if self.dual:
            high_NT = high_NT | ((ratio_NT > self.dual) & (advantage_NT < 0))
        return low_NT, high_NT


@kind("surrogate")
@dataclass(frozen=True)
class SequenceRatio(Surrogate):
    """min(s A, clip(s, 1 - low, 1 + high) A) with s = (prod_t r_t)^(1/T), the geometric mean of the attempt's token
    ratios (GSPO, arXiv 2507.18071, equations 5 to 7), at every token of it.

    One ratio for what was rewarded as one. It needs a clip range a hundred times narrower: the paper's 3e-4 and 4e-4.
    Summed with ``sequence_mean`` an attempt counts min(s A, ...) once.

    Its tokens share one gradient, so advantages that tell them apart would be averaged away: A = (3, 0, -3) has none.
    ``level="token"`` is GSPO-token (section 4.3): s_t = sg(s) pi(y_t) / sg(pi(y_t)), clipped where s is, and every
    token's own A_t. Where A is the same for all tokens of an attempt, value and gradient are those of
    ``level="sequence"``.
    """

    low: float = 3e-4
    high: float = 4e-4
    level: Literal["sequence", "token"] = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    @property
    def one_ratio(self) -> bool:
        return self.level == "sequence"

    def __post_init__(self) -> None:
        require_range(self.low, self.high)

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        difference_NT = log_ratio_to_old(logp_NT, batch)
        mean_NT = mean_of_attempt(difference_NT, batch).expand_as(difference_NT)
        if self.level == "sequence":
            return mean_NT
        return mean_NT.detach() + (difference_NT - difference_NT.detach())

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(self.log_ratio(scored.logp_NT, batch))
        return pessimistic(ratio_NT, advantage_NT, self.low, self.high)

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: the gradient of the whole attempt (by tokens: of this one) was cut, by side."""
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(self.log_ratio(logp_NT.detach(), batch))
        return cut_sides(ratio_NT, advantage_NT, self.low, self.high)


@kind("surrogate")
@dataclass(frozen=True)
class ClippedWeight(Surrogate):
    """sg(clip(r_t, 1 - low, 1 + high)) A_t log pi(y_t) (CISPO, arXiv 2506.13585, equations 4 and 5); sg: no gradient.

    Clipping bounds the weight and never cuts a token's gradient. The paper puts no lower bound (low = 1) and tunes the
    upper one without naming it; TRL bounds the ratio itself (1 + high = 5 there).
    """

    low: float = 1.0
    high: float = 4.0
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    def __post_init__(self) -> None:
        require_range(self.low, self.high)

    def log_ratio(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        return log_ratio_to_old(logp_NT, batch)

    def __call__(self, scored: Scored, batch: Batch) -> Tensor:
        ratio_NT = torch.exp(self.log_ratio(scored.logp_NT.detach(), batch))
        return ratio_NT.clamp(1 - self.low, 1 + self.high) * given(batch.advantage_NT, "advantage_NT") * scored.logp_NT

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: the weight was bounded, by side; the gradient is there all the same."""
        ratio_NT = torch.exp(self.log_ratio(logp_NT.detach(), batch))
        return ratio_NT < 1 - self.low, ratio_NT > 1 + self.high
