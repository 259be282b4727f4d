"""Sums over the future of an attempt: rewards to go, and generalised advantages. Plain functions of rectangles.

Time runs over the chosen tokens of a row alone: what the policy did not choose is stepped over, and the end of a row
is the end of its attempt. Rows never see each other.
"""

from __future__ import annotations

import torch
from torch import Tensor


def outcome_at_last(reward_N: Tensor, mask_NT: Tensor) -> Tensor:
    """The outcome at the last chosen token of every row, zero elsewhere; a row without any stays zero."""
    reward_NT = torch.zeros(mask_NT.shape, dtype=reward_N.dtype, device=reward_N.device)
    if not mask_NT.shape[1]:
        return reward_NT
    place_T = torch.arange(mask_NT.shape[1], device=mask_NT.device)
    last_N = torch.where(mask_NT, place_T, -1).amax(dim=1)
    rows = (last_N >= 0).nonzero()[:, 0]
    return reward_NT.index_put((rows, last_N[rows]), reward_N[rows])


def at_chosen(reward_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Every reward at a token that the policy chose: what stands at another one goes to the last chosen before it (at
    the beginning: to the first). The sum of a row stays; a row without chosen tokens keeps nothing."""
    if bool(mask_NT.all()):
        return reward_NT
    place_T = torch.arange(mask_NT.shape[1], device=mask_NT.device)
    before_NT = torch.where(mask_NT, place_T, -1).cummax(dim=1).values
    place_NT = torch.where(before_NT < 0, mask_NT.int().argmax(dim=1, keepdim=True), before_NT)
    return torch.zeros_like(reward_NT).scatter_add(1, place_NT, reward_NT * mask_NT.any(dim=1, keepdim=True))


def discounted(reward_NT: Tensor, mask_NT: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1}: the reward to go, zero outside the mask."""
    return generalised_advantage(reward_NT, torch.zeros_like(reward_NT), mask_NT, gamma, 1.0)


def lambda_returns(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    """G_t = r_t + gamma ((1 - lam) V_{t+1} + lam G_{t+1}): generalised advantage plus V_t, zero outside the mask.

    lam = 1 is the reward to go exactly, whatever the values say; at lam = 0 the next value stands for all the rest.
    """
    return_NT = torch.zeros_like(reward_NT)
    next_N = reward_NT.new_zeros(len(reward_NT))
    for t in reversed(range(reward_NT.shape[1])):
        chosen_N = mask_NT[:, t]
        here_N = reward_NT[:, t] + gamma * next_N
        return_NT[:, t] = torch.where(chosen_N, here_N, torch.zeros_like(here_N))
        next_N = torch.where(chosen_N, (1 - lam) * value_NT[:, t] + lam * here_N, next_N)
    return return_NT


def generalised_advantage(reward_NT: Tensor, value_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t (arXiv 1506.02438, equations 11 and 16).

    ``value_NT`` is the critic's value of the state before token t, in units of reward; after the last chosen token it
    is 0. Zero outside the mask.
    """
    advantage_NT = torch.zeros_like(reward_NT)
    next_value_N = reward_NT.new_zeros(len(reward_NT))
    next_advantage_N = torch.zeros_like(next_value_N)
    for t in reversed(range(reward_NT.shape[1])):
        chosen_N = mask_NT[:, t]
        delta_N = reward_NT[:, t] + gamma * next_value_N - value_NT[:, t]
        here_N = delta_N + gamma * lam * next_advantage_N
        next_advantage_N = torch.where(chosen_N, here_N, next_advantage_N)
        next_value_N = torch.where(chosen_N, value_NT[:, t], next_value_N)
        advantage_NT[:, t] = torch.where(chosen_N, here_N, torch.zeros_like(here_N))
    return advantage_NT
