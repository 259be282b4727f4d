"""The next token on a device, without a word from the host: sums of float32 over blocks of the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from upslope.model.distribution import adjusted
from upslope.types import Sampling

BLOCK = 1024
"""Tokens whose probabilities are summed in float32, as the C kernel does; sums of blocks are wide."""


def draw_in_blocks(
    logits_RV: Tensor, position_R: Tensor, uniform_R: Tensor, sampling: Sampling, end_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """(token_R, logp_R) as ``draw`` has them, but for rounding: two steps find the token, first the block in which the
    cumulative sum passes u, then the place in it, so that nothing a vocabulary wide is in float64.

    Nothing is raised, since that would be to wait for the device: where the logits hold a NaN, or none is finite, the
    token is 0 and its log-probability NaN.
    """
    logits_RV = adjusted(logits_RV, position_R, sampling, end_ids)
    most_R1 = logits_RV.amax(dim=1, keepdim=True)
    sound_R = most_R1[:, 0].isfinite()
    if sampling.greedy:
        logp_R = torch.where(sound_R, 0.0, torch.nan)
        return torch.where(sound_R, logits_RV.argmax(dim=1), 0), logp_R.to(logits_RV.dtype)
    wide = logits_RV.dtype if logits_RV.device.type == "mps" else torch.float64
    weight_RV = (logits_RV - torch.where(sound_R[:, None], most_R1, 0)).exp()
    weight_RSB = pad(weight_RV, (0, -weight_RV.shape[1] % BLOCK)).view(len(weight_RV), -1, BLOCK)
    sum_RS = weight_RSB.sum(dim=2).to(wide)
    upto_RS = sum_RS.cumsum(dim=1)
    total_R1 = upto_RS[:, -1:]
    aim_R1 = uniform_R[:, None].to(wide) * total_R1
    block_R1 = torch.searchsorted(upto_RS, torch.minimum(aim_R1, _just_below(total_R1)), right=True)
    block_R1 = block_R1.clamp(max=upto_RS.shape[1] - 1)
    before_R1 = upto_RS.gather(1, block_R1) - sum_RS.gather(1, block_R1)
    index_R1B = block_R1[:, :, None].expand(-1, 1, BLOCK)
    inside_RB = weight_RSB.gather(1, index_R1B)[:, 0].to(wide).cumsum(dim=1)
    # The block's float32 sum and this one differ by rounding; an aim above either means its last possible token.
    within_R1 = torch.minimum(aim_R1 - before_R1, _just_below(inside_RB[:, -1:])).clamp(min=0)
    token_R1 = block_R1 * BLOCK + torch.searchsorted(inside_RB, within_R1, right=True).clamp(max=BLOCK - 1)
    token_R = torch.where(sound_R, token_R1[:, 0], 0)
    logp_R = weight_RV.gather(1, token_R[:, None])[:, 0].to(wide).log() - total_R1[:, 0].log()
    return token_R, torch.where(sound_R, logp_R, torch.nan)


def _just_below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))
