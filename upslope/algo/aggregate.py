"""Slot ``aggregate``: how per-token values become one number.

Each maps a whole batch to ``weight_NT``, what a token counts for; the objective is then sum_nt weight_nt value_nt. All
denominators live in these weights, computed before the batch is split, so that the parts of any split add up to the
whole: a mean of means cannot happen. Those here give all tokens of a rollout one weight w_n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.algo.slots import Aggregate, kind
from upslope.types import Batch


def lengths(batch: Batch) -> Tensor:
    """Chosen tokens of every rollout, shape N, in the dtype of rewards."""
    return batch.mask_NT.sum(dim=1).to(batch.reward_N.dtype)


def alike_in_rollout(weight_N: Tensor, batch: Batch) -> Tensor:
    """[N, T]: every chosen token has its rollout's weight, the rest 0."""
    zero = torch.zeros((), dtype=weight_N.dtype, device=weight_N.device)
    return torch.where(batch.mask_NT, weight_N[:, None], zero)


@kind("aggregate")
def sequence_sum(batch: Batch) -> Tensor:
    """w_n = 1/N: the sum over a rollout's tokens, averaged over rollouts; the gradient of expected reward itself."""
    return alike_in_rollout(torch.ones_like(batch.reward_N) / max(batch.num_rollouts, 1), batch)


@kind("aggregate", divides_by_length=True)
def sequence_mean(batch: Batch) -> Tensor:
    """w_n = 1/(N T_n): the mean over a rollout's tokens, averaged over rollouts (GRPO, arXiv 2402.03300, eq. 3).

    A token of a long rollout counts less, so a long wrong answer is cheap: the length bias of arXiv 2503.20783.
    An empty rollout has no tokens to weigh and still counts in N.
    """
    return alike_in_rollout(1 / (max(batch.num_rollouts, 1) * lengths(batch).clamp(min=1)), batch)


@kind("aggregate", divides_by_length=True, pools_batch=True)
def token_mean(batch: Batch) -> Tensor:
    """w_n = 1/sum_m T_m: every token of the batch counts the same (DAPO, arXiv 2503.14476, equation 12; SFT)."""
    length_N = lengths(batch)
    return alike_in_rollout(torch.ones_like(length_N) / length_N.sum().clamp(min=1), batch)


@kind("aggregate", divides_by_length=True)
def prompt_mean(batch: Batch) -> Tensor:
    """w_n = 1/(P sum of T over the attempts at n's problem), P problems: every problem counts the same, and within it
    every token (ScaleRL, arXiv 2510.13786, section 3.2)."""
    length_N = lengths(batch)
    num = int(batch.group_N.max()) + 1 if batch.num_rollouts else 0
    total_N = length_N.new_zeros(num).index_add(0, batch.group_N, length_N)[batch.group_N]
    return alike_in_rollout(1 / (max(len(set(batch.group_N.tolist())), 1) * total_N.clamp(min=1)), batch)


@kind("aggregate")
@dataclass(frozen=True)
class ConstantLength(Aggregate):
    """w_n = 1/(N L): sequence_sum in other units, free of length bias (Dr. GRPO, arXiv 2503.20783, section 3.2).

    ``length`` is L; 0 takes the longest response that sampling allows, as the paper's code does.
    """

    length: int = 0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"length must be at least 0, not {self.length}")

    def __call__(self, batch: Batch) -> Tensor:
        return sequence_sum(batch) / (self.length or batch.limit or max(batch.mask_NT.shape[1], 1))
