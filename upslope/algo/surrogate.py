"""Slot ``surrogate``: what is pushed. One value per token, to be made larger; the reduction happens elsewhere.

Each maps ``(logp_NT, batch)`` to ``value_NT``, where ``logp_NT`` carries the gradient and everything in the batch is
constant. ``clipped`` (if a surrogate has it) marks the tokens whose gradient the surrogate cut, by side.
Still to be filled here: the bare importance ratio, the sequence-level ratio, the clipped weight, the dual clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from upslope.types import Batch


def given(value: Tensor | None, name: str) -> Tensor:
    """The batch's field, which ``prepare`` must have filled because the slot declares it in ``needs``."""
    if value is None:
        raise RuntimeError(f"a slot reads {name}, but prepare did not fill it: declare it in the slot's `needs`")
    return value


def likelihood(logp_NT: Tensor, batch: Batch) -> Tensor:
    """A_t * log pi(y_t | ...): its gradient is the score function's, A_t * grad log pi (Williams 1992)."""
    return given(batch.advantage_NT, "advantage_NT") * logp_NT


@dataclass(frozen=True)
class ClippedRatio:
    """min(r A, clip(r, 1 - low, 1 + high) A), r = pi(y_t) / pi_old(y_t) (PPO, arXiv 1707.06347, equation 7).

    With A > 0 the gradient vanishes once r > 1 + high, with A < 0 once r < 1 - low: a token that already moved far
    enough in the wanted direction is left alone. At r = 1 value and gradient are those of r A.
    """

    low: float = 0.2
    high: float = 0.2
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError(f"clip range needs 0 <= low <= 1 and high >= 0, not low={self.low}, high={self.high}")

    def __call__(self, logp_NT: Tensor, batch: Batch) -> Tensor:
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(logp_NT - given(batch.old_logp_NT, "old_logp_NT"))
        return torch.minimum(ratio_NT * advantage_NT, ratio_NT.clamp(1 - self.low, 1 + self.high) * advantage_NT)

    def clipped(self, logp_NT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(low_NT, high_NT), bool: the gradient was cut because the ratio fell, or rose, far enough."""
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        ratio_NT = torch.exp(logp_NT.detach() - given(batch.old_logp_NT, "old_logp_NT"))
        return (ratio_NT < 1 - self.low) & (advantage_NT < 0), (ratio_NT > 1 + self.high) & (advantage_NT > 0)
