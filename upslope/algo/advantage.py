"""Slot ``advantage``: how good was this, against what.

Each function maps a batch whose ``reward_N`` is already shaped to ``advantage_NT``, one value per token in units of
reward, zero outside the mask. An outcome reward judges the whole attempt, so every token of it shares one value.
Still to be filled here: running baseline, leave-one-out, GAE with a critic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.types import Batch


def spread(value_N: Tensor, mask_NT: Tensor) -> Tensor:
    """Give every chosen token its rollout's value, and zero to the rest."""
    return torch.where(mask_NT, value_N[:, None], torch.zeros((), dtype=value_N.dtype, device=value_N.device))


def sum_by_group(value_N: Tensor, group_N: Tensor) -> Tensor:
    """The sum over a rollout's own group, at every rollout: shape N to N."""
    num_groups = int(group_N.max()) + 1 if len(group_N) else 0
    return value_N.new_zeros(num_groups).index_add(0, group_N, value_N)[group_N]


def mean_by_group(value_N: Tensor, group_N: Tensor) -> Tensor:
    """The mean over a rollout's own group, at every rollout: shape N to N."""
    return sum_by_group(value_N, group_N) / sum_by_group(torch.ones_like(value_N), group_N)


def centred(value_N: Tensor, group_N: Tensor) -> Tensor:
    """Value minus the mean of its group; exactly zero in a group of equal values, which rounding alone would miss."""
    num_groups = int(group_N.max()) + 1 if len(group_N) else 0
    highest = value_N.new_zeros(num_groups).scatter_reduce(0, group_N, value_N, "amax", include_self=False)[group_N]
    lowest = value_N.new_zeros(num_groups).scatter_reduce(0, group_N, value_N, "amin", include_self=False)[group_N]
    return torch.where(highest == lowest, 0, value_N - mean_by_group(value_N, group_N))


def ones(batch: Batch) -> Tensor:
    """A_t = 1: what is imitated is good by decree (SFT, RFT)."""
    return spread(torch.ones_like(batch.reward_N), batch.mask_NT)


def returns(batch: Batch) -> Tensor:
    """A_t = R: the plain return (Williams 1992, REINFORCE). For 0/1 rewards only the right attempts push."""
    return spread(batch.reward_N, batch.mask_NT)


def group_mean(batch: Batch) -> Tensor:
    """A_i = R_i - mean_j R_j over the group, own sample included.

    The baseline contains R_i itself, so the expected gradient is (1 - 1/G) times the true one: same direction,
    shorter by a factor that a learning rate absorbs.
    """
    return spread(centred(batch.reward_N, batch.group_N), batch.mask_NT)


@dataclass(frozen=True)
class GroupZScore:
    """A_i = (R_i - mean_j R_j) / (std_j R_j + eps) (DeepSeekMath, arXiv 2402.03300, section 4.1.2).

    The deviation is the sample's (divided by G - 1), as in TRL and verl; others divide by G. Dividing by it weighs
    a problem by how unlikely its rarer outcome is, which is no multiple of the gradient of expected reward.
    A group whose rewards are all equal gets zeros, a group of one too.
    """

    eps: float = 1e-4

    def __call__(self, batch: Batch) -> Tensor:
        centred_N = centred(batch.reward_N, batch.group_N)
        size_N = sum_by_group(torch.ones_like(centred_N), batch.group_N)
        variance_N = sum_by_group(centred_N**2, batch.group_N) / (size_N - 1).clamp(min=1)
        return spread(centred_N / (variance_N.sqrt() + self.eps), batch.mask_NT)
