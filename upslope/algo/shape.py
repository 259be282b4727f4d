"""Slot ``shape``: is the raw reward changed before anyone compares it with anything.

Each maps a batch to ``reward_NT``: what every token earns, in the task's units. The outcome stands at the last chosen
token, what was earned on the way where it was earned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from upslope.algo.aggregate import lengths
from upslope.algo.returns import outcome_at_last
from upslope.algo.slots import Shape, kind
from upslope.types import Batch, given


@kind("shape")
def identity(batch: Batch) -> Tensor:
    """The reward as the task gave it."""
    return given(batch.reward_NT, "reward_NT")


@kind("shape")
@dataclass(frozen=True)
class SoftOverlong(Shape):
    """R_n + factor * min(0, (L - B - T_n) / B): soft overlong punishment (DAPO, arXiv 2503.14476, equation 13).

    T_n counts the tokens that the policy chose; L is the longest response that sampling allows and B = ``buffer`` * L
    the stretch before it. Up to L - B tokens cost nothing, from there the cost grows linearly, and at L it is
    ``factor``, in units of reward. The paper's L is 20480 and its B 4096: a fifth.

    The paper's factor is 1, on rewards of +1 and -1: half of what right and wrong are apart. Rewards here are 1 and 0,
    and 0.5 is the same half; set factor=1 for rewards of +1 and -1. (With 1 on 1 and 0, a right answer at the limit
    would be worth no more than a short wrong one.)
    """

    buffer: float = 0.2
    factor: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= 1:
            raise ValueError(f"buffer is a share in (0, 1], not {self.buffer}")
        if not self.factor > 0:
            raise ValueError(f"factor must be above 0, not {self.factor}; shape=identity punishes nothing")

    def __call__(self, batch: Batch) -> Tensor:
        reward_NT = given(batch.reward_NT, "reward_NT")
        if not batch.limit:
            return reward_NT
        stretch = self.buffer * batch.limit
        cost_N = self.factor * ((batch.limit - stretch - lengths(batch)) / stretch).clamp(-1, 0)
        return reward_NT + outcome_at_last(cost_N, batch.mask_NT)
