"""Log-ratios of two distributions at the chosen tokens: in log space, so that nothing overflows before it has to, and 0
outside the mask."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.types import Batch, given


def masked(value_NT: Tensor, batch: Batch) -> Tensor:
    """Zero outside the mask, in value and in gradient."""
    return torch.where(batch.mask_NT, value_NT, value_NT.new_zeros(()))


def log_ratio_to_old(logp_NT: Tensor, batch: Batch) -> Tensor:
    """log pi(y_t) - log pi_old(y_t)."""
    return masked(logp_NT - given(batch.old_logp_NT, "old_logp_NT"), batch)


def log_ratio_to_sampler(logp_NT: Tensor, batch: Batch) -> Tensor:
    """log pi(y_t) - log mu(y_t), mu as logged when y_t was drawn."""
    return masked(logp_NT - given(batch.sampler_logp_NT, "sampler_logp_NT"), batch)


def mean_of_attempt(masked_NT: Tensor, batch: Batch) -> Tensor:
    """The mean over an attempt's chosen tokens, [N, 1], of what is 0 at all others; 0 where none was chosen."""
    return masked_NT.sum(dim=1, keepdim=True) / batch.mask_NT.sum(dim=1, keepdim=True).clamp(min=1)
