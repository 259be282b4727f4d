"""Slot ``shape``: is the raw outcome changed before anyone compares it with anything."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from upslope.algo.aggregate import lengths
from upslope.types import Batch


def identity(batch: Batch) -> Tensor:
    """The reward as the task gave it: R_n, shape N, in the task's units."""
    return batch.reward_N


@dataclass(frozen=True)
class SoftOverlong:
    """R_n + min(0, (L - B - T_n) / B): soft overlong punishment (DAPO, arXiv 2503.14476, equation 13).

    L is the longest response that sampling allows and B = ``buffer`` * L the stretch before it. Up to L - B tokens
    cost nothing, from there the cost grows linearly, and at L it is 1. The paper's L is 20480 and its B 4096: a fifth.
    """

    buffer: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= 1:
            raise ValueError(f"buffer is a share in (0, 1], not {self.buffer}")

    def __call__(self, batch: Batch) -> Tensor:
        if not batch.limit:
            return batch.reward_N
        stretch = self.buffer * batch.limit
        return batch.reward_N + ((batch.limit - stretch - lengths(batch)) / stretch).clamp(-1, 0)
