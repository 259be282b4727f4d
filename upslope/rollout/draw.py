"""The next token from one uniform number a row, by the inverse of the cumulative distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.errors import NonFinite
from upslope.model.distribution import adjusted, ban_
from upslope.native.ops import ops_for
from upslope.types import Sampling

NOT_FINITE = "the model's logits are not finite, so nothing can be drawn from them"


def draw(
    logits_RV: Tensor, position_R: Tensor, uniform_R: Tensor, sampling: Sampling, end_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """(token_R, logp_R): the least token whose cumulative probability exceeds the uniform number, and its log-prob.

    The logits may be changed. A token of probability zero cannot be drawn, since the cumulative sum does not rise
    there. Greedy decoding takes the likeliest token, with certainty: log-probability 0. Raises NonFinite if the logits
    hold a NaN.
    """
    whole = sampling.temperature > 0 and sampling.top_k == 0 and sampling.top_p == 1
    ops = ops_for(logits_RV.device, logits_RV.dtype)
    if whole and ops.fast:
        ban_(logits_RV, position_R, sampling, end_ids)
        token_R, logp_R = ops.draw(logits_RV.contiguous(), uniform_R.double().contiguous(), sampling.temperature)
        if bool((token_R < 0).any()):
            raise NonFinite(NOT_FINITE)
        return token_R, logp_R
    logits_RV = adjusted(logits_RV, position_R, sampling, end_ids)
    if not bool(torch.isfinite(logits_RV.amax(dim=1)).all()):  # a NaN is the maximum of any row that holds one
        raise NonFinite(NOT_FINITE)
    if sampling.greedy:
        return logits_RV.argmax(dim=1), logits_RV.new_zeros(len(logits_RV))
    # Sums over a large vocabulary in float32 would be off by more than the probability of a rare token.
    exact = logits_RV.dtype if logits_RV.device.type == "mps" else torch.float64
    probability_RV = logits_RV.to(exact).softmax(dim=1)
    cumulative_RV = probability_RV.cumsum(dim=1)
    total_R1 = cumulative_RV[:, -1:]
    # Rounding could lift u * total to total itself, and nothing exceeds that.
    below_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))
    aim_R1 = torch.minimum(uniform_R[:, None].to(total_R1.dtype) * total_R1, below_R1)
    token_R1 = torch.searchsorted(cumulative_RV, aim_R1, right=True)
    return token_R1[:, 0], probability_RV.gather(1, token_R1)[:, 0].log()
