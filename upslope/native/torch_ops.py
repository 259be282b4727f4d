"""``Ops`` in plain torch: any device, any dtype, as the equations say it. The kernels are compared with these."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.spans import Spans
from upslope.native.torch_pointwise import (
    head_norm_,
    head_norm_backward_,
    norm,
    norm_backward,
    rotary_,
    swiglu,
    swiglu_backward_,
    wide,
)
from upslope.native.torch_table import table

# fmt: off
__all__ = [
    "attend", "attend_backward", "available", "draw", "fast", "head_norm_", "head_norm_backward_", "logps",
    "logps_backward_", "norm", "norm_backward", "rotary_", "swiglu", "swiglu_backward_", "table",
]
# fmt: on

fast: bool = False


def available(dtype: torch.dtype, device: torch.device) -> bool:
    return dtype.is_floating_point


def attend(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    query_KJRD, key_KJD, value_KJD = _split(qkv_KX, spans, num_heads, num_key_heads)
    out_KJRD = torch.zeros_like(query_KJRD)
    peak_KJR2 = query_KJRD.new_zeros(*query_KJRD.shape[:3], 2)
    for own, seen, hidden in _segments(spans, qkv_KX.device):
        score = torch.einsum("qjrd,tjd->qjrt", query_KJRD[own] * scale, key_KJD[seen]).masked_fill_(hidden, -torch.inf)
        most = score.amax(-1, keepdim=True)
        weight = (score - most).exp()
        share = 1 / weight.sum(-1, keepdim=True)
        out_KJRD[own] = torch.einsum("qjrt,tjd->qjrd", weight * share, value_KJD[seen])
        peak_KJR2[own] = torch.cat([most, share], dim=-1)
    return out_KJRD.flatten(1).to(qkv_KX.dtype), peak_KJR2.flatten(1, 2)


def attend_backward(
    qkv_KX: Tensor,
    out_KX: Tensor,
    dout_KX: Tensor,
    peak_KH2: Tensor,
    spans: Spans,
    num_heads: int,
    num_key_heads: int,
    scale: float,
) -> Tensor:
    query_KJRD, key_KJD, value_KJD = _split(qkv_KX, spans, num_heads, num_key_heads)
    dout_KJRD = wide(dout_KX).view_as(query_KJRD)
    dot_KJR1 = (dout_KJRD * wide(out_KX).view_as(query_KJRD)).sum(-1, keepdim=True)
    peak_KJR2 = peak_KH2.view(*query_KJRD.shape[:3], 2)
    dquery, dkey, dvalue = (torch.zeros_like(x) for x in (query_KJRD, key_KJD, value_KJD))
    for own, seen, hidden in _segments(spans, qkv_KX.device):
        query, dout, peak = query_KJRD[own] * scale, dout_KJRD[own], peak_KJR2[own]
        score = torch.einsum("qjrd,tjd->qjrt", query, key_KJD[seen]).masked_fill_(hidden, -torch.inf)
        weight = (score - peak[..., :1]).exp() * peak[..., 1:]
        slope = weight * (torch.einsum("qjrd,tjd->qjrt", dout, value_KJD[seen]) - dot_KJR1[own])
        dquery[own] = torch.einsum("qjrt,tjd->qjrd", slope, key_KJD[seen]) * scale
        dkey[seen] += torch.einsum("qjrt,qjrd->tjd", slope, query)
        dvalue[seen] += torch.einsum("qjrt,qjrd->tjd", weight, dout)
    return torch.cat([x.flatten(1) for x in (dquery, dkey, dvalue)], dim=1).to(qkv_KX.dtype)


def _split(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [K, J, H / J, D], keys and values [K, J, D], wide."""
    num, depth = len(qkv_KX), spans.depth(qkv_KX, num_heads, num_key_heads)
    sizes = [num_heads * depth, num_key_heads * depth, num_key_heads * depth]
    query, key, value = torch.split_with_sizes(wide(qkv_KX), sizes, dim=1)
    shape = (num, num_key_heads, depth)
    return query.reshape(num, num_key_heads, num_heads // num_key_heads, depth), key.view(shape), value.view(shape)


def _segments(spans: Spans, device: torch.device) -> list[tuple[slice, Tensor, Tensor]]:
    """(own tokens, the S tokens that these see, and what of it each does not see, [L, 1, 1, S])."""
    found = []
    for start, length, prompt, size in spans.segments.tolist():
        if length:
            seen_S = torch.cat([torch.arange(prompt, prompt + size), torch.arange(start, start + length)]).to(device)
            hidden_LS = torch.ones(length, size + length, dtype=torch.bool, device=device).triu(size + 1)
            found.append((slice(start, start + length), seen_S, hidden_LS[:, None, None]))
    return found


def draw(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    most_N = logits_NV.amax(1)  # a NaN is the maximum of any row that holds one
    probability_NV = (logits_NV.double() / temperature).softmax(1)
    upto_NV = probability_NV.cumsum(1)
    total_N1 = upto_NV[:, -1:]
    below_N1 = torch.nextafter(total_N1, torch.zeros_like(total_N1))  # nothing exceeds the total itself
    token_N1 = torch.searchsorted(upto_NV, torch.minimum(uniform_N[:, None] * total_N1, below_N1), right=True)
    token_N1 = token_N1.clamp(max=logits_NV.shape[1] - 1)
    logp_N = probability_NV.gather(1, token_N1)[:, 0].log()
    return torch.where(most_N.isfinite(), token_N1[:, 0], -1), logp_N


def logps(logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    logits = wide(logits_CV)
    logp_CV = (logits / temperature).log_softmax(1)
    entropy_C = -(logp_CV.exp() * logp_CV.masked_fill(logp_CV == -torch.inf, 0)).sum(1)
    most_C1 = logits.amax(1, keepdim=True)
    share_C1 = 1 / ((logits - most_C1) / temperature).exp().sum(1, keepdim=True)
    return logp_CV.gather(1, target_C[:, None])[:, 0], entropy_C, torch.cat([most_C1, share_C1], dim=1)


def logps_backward_(logits_CV: Tensor, target_C: Tensor, temperature: float, peak_C2: Tensor, dlogp_C: Tensor) -> None:
    probability_CV = ((wide(logits_CV) - peak_C2[:, :1]) / temperature).exp() * peak_C2[:, 1:]
    pull_C1 = (dlogp_C / temperature)[:, None]
    logits_CV.copy_((-pull_C1 * probability_CV).scatter_add_(1, target_C[:, None], pull_C1.to(probability_CV.dtype)))
