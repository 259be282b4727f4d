"""Attention as functions of tensors (attention.h), as ``Ops`` describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.calls import floats, kernel, pointers, require
from upslope.native.spans import Spans
from upslope.native.table import padded


def attend(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """(out [K, H * D], largest score and 1 / sum of exponentials [K, H, 2]) of rotated queries, keys and values."""
    num, depth = qkv_KX.shape[0], _depth(qkv_KX, num_heads, num_key_heads)
    _check_spans(spans, num)
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
    num, depth = qkv_KX.shape[0], _depth(qkv_KX, num_heads, num_key_heads)
    _check_spans(spans, num)
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


def _check_spans(spans: Spans, num_tokens: int) -> None:
    if spans.num_tokens != num_tokens:
        raise ValueError(f"the spans are of {spans.num_tokens} tokens, not of {num_tokens}")


def _depth(qkv_KX: Tensor, num_heads: int, num_key_heads: int) -> int:
    """Of a head, from the width of all of them."""
    depth, rest = divmod(qkv_KX.shape[1], num_heads + 2 * num_key_heads)
    if rest or num_heads % num_key_heads:
        raise ValueError(f"{qkv_KX.shape[1]} columns are not {num_heads} heads and {num_key_heads} of keys and values")
    return depth
