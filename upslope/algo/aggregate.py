"""Slot ``aggregate``: how per-token values become one number.

Each function maps the mask of a whole batch to ``weight_N``, what one token of rollout n counts for; the objective
is then sum_n weight_n sum_t value_nt. All denominators live in these weights, computed before the batch is split,
so that the parts of any split add up to the whole: a mean of means cannot happen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def lengths(mask_NT: Tensor, dtype: torch.dtype) -> Tensor:
    """Chosen tokens of every rollout, shape N."""
    return mask_NT.sum(dim=1).to(dtype)


def sequence_sum(mask_NT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """w_n = 1/N: the sum over a rollout's tokens, averaged over rollouts; the gradient of expected reward itself."""
    return torch.full((len(mask_NT),), 1.0, dtype=dtype, device=mask_NT.device) / max(len(mask_NT), 1)


def sequence_mean(mask_NT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """w_n = 1/(N T_n): the mean over a rollout's tokens, averaged over rollouts (GRPO, arXiv 2402.03300, eq. 3).

    A token of a long rollout counts less, so a long wrong answer is cheap: the length bias of arXiv 2503.20783.
    An empty rollout has no tokens to weigh and still counts in N.
    """
    return 1 / (max(len(mask_NT), 1) * lengths(mask_NT, dtype).clamp(min=1))


def token_mean(mask_NT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """w_n = 1/sum_m T_m: every token of the batch counts the same (DAPO, arXiv 2503.14476, equation 12; SFT)."""
    length_N = lengths(mask_NT, dtype)
    return torch.ones_like(length_N) / length_N.sum().clamp(min=1)


@dataclass(frozen=True)
class ConstantLength:
    """w_n = 1/(N L) with L fixed, the longest response allowed say: sequence_sum in other units (Dr. GRPO)."""

    length: int = 1024

    def __call__(self, mask_NT: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return sequence_sum(mask_NT, dtype) / self.length
