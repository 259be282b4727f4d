"""Attention as functions of tensors (attention.h), as ``Ops`` describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.calls import floats, kernel, pointers, require
from upslope.native.spans import Spans
from upslope.native.table import padded


def attend(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """(out [K, H * D], largest score and 1 / sum of exponentials [K, H, 2]) of rotated queries, keys and values."""
    num, depth = len(qkv_KX), spans.depth(qkv_KX, num_heads, num_key_heads)
    out_KX = qkv_KX.new_empty(num, num_heads * depth)
    peak_KH2 = floats(num, num_heads, 2)
    qkv, out = pointers(qkv_KX.dtype, qkv_KX, out_KX)
    segments = spans.segments.data_ptr()
    heads = (num_heads, num_key_heads, depth, scale)
    kernel("attend", qkv_KX.dtype)(qkv, segments, len(spans.segments), *heads, out, peak_KH2.data_ptr(), spans.longest)
    return out_KX, peak_KH2


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
    """The gradient of ``qkv``."""
    num, depth = len(qkv_KX), spans.depth(qkv_KX, num_heads, num_key_heads)
    shape = (num, num_heads * depth)
    require((out_KX, shape), (dout_KX, shape), (peak_KH2, (num, num_heads, 2)))
    offset, size = spans.shared_offsets(num_key_heads, padded(depth))
    shared = floats(size)
    dqkv_KX = torch.empty_like(qkv_KX)
    dtype = qkv_KX.dtype
    qkv, out, dout, dqkv = pointers(dtype, qkv_KX, out_KX, dout_KX, dqkv_KX)
    (peak,) = pointers(torch.float32, peak_KH2)
    kernel("attend_backward", dtype)(
        qkv,
        out,
        dout,
        peak,
        spans.segments.data_ptr(),
        spans.children.data_ptr(),
        len(spans.children),
        len(spans.segments),
        offset.data_ptr(),
        shared.data_ptr(),
        num_heads,
        num_key_heads,
        depth,
        scale,
        dqkv,
        spans.longest,
    )
    return dqkv_KX
