"""Attention over packed segments in Triton, as ``Ops`` describes it. A program has some queries of one head, or some
keys with all queries that see them, so that nothing is added up by two of them and sums have one order."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

from upslope.native.spans import Spans
from upslope.native.triton_pointwise import require

QUERIES, KEYS = 16, 32


@triton.jit
def _tile(base, start, num, stride, at, D: tl.constexpr, B: tl.constexpr, depth):
    """[B, D] of rows start + at, zeros beyond ``num`` and ``depth``."""
    col = tl.arange(0, D)
    inside = (at[:, None] < num) & (col[None, :] < depth)
    return tl.load(base + (start + at)[:, None].to(tl.int64) * stride + col[None, :], mask=inside, other=0.0)


@triton.jit
def product(a, b, WIDE: tl.constexpr):
    """a b, summed in float32; ``WIDE``: of float32 too, for the interpreter has no products of bfloat16."""
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _scores(q, k, scale, seen, WIDE: tl.constexpr):
    z = scale * product(q, tl.trans(k), WIDE)
    return tl.where(seen, z, float("-inf"))


@triton.jit
def _attend(
    qkv, segments, out, peak, scale, heads, key_heads, depth,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    segment, block, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, length = tl.load(segments + 4 * segment), tl.load(segments + 4 * segment + 1)
    prompt, size = tl.load(segments + 4 * segment + 2), tl.load(segments + 4 * segment + 3)
    if block * M < length:
        stride = (heads + 2 * key_heads) * depth
        key = qkv + (heads + head // (heads // key_heads)) * depth
        value = key + key_heads * depth
        row, near = block * M + tl.arange(0, M), tl.arange(0, N)
        q = _tile(qkv + head * depth, start, length, stride, row, D, M, depth)
        most, total = tl.full((M,), float("-inf"), tl.float32), tl.zeros((M,), tl.float32)
        mixed = tl.zeros((M, D), tl.float32)
        own = tl.minimum(length, block * M + M)
        for begin in range(0, size + own, N):
            at = begin + near  # what is seen, the prompt's tokens and then the segment's own
            place = tl.where(at < size, prompt + at, start + at - size)
            col = tl.arange(0, D)
            inside = (at[:, None] < size + own) & (col[None, :] < depth)
            where = place[:, None].to(tl.int64) * stride + col[None, :]
            k, v = tl.load(key + where, mask=inside, other=0.0), tl.load(value + where, mask=inside, other=0.0)
            z = _scores(q, k, scale, at[None, :] - size <= row[:, None], WIDE)
            top = tl.maximum(most, tl.max(z, axis=1))
            p, keep = tl.exp(z - top[:, None]), tl.exp(most - top)
            total = total * keep + tl.sum(p, axis=1)
            mixed = mixed * keep[:, None] + product(p.to(v.dtype), v, WIDE)
            most = top
        col = tl.arange(0, D)
        inside = (row[:, None] < length) & (col[None, :] < depth)
        to = out + (start + row)[:, None].to(tl.int64) * heads * depth + head * depth + col[None, :]
        tl.store(to, (mixed / total[:, None]).to(q.dtype), mask=inside)
        tell = peak + ((start + row).to(tl.int64) * heads + head) * 2
        tl.store(tell, most, mask=row < length)
        tl.store(tell + 1, 1 / total, mask=row < length)


def attend(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    num, depth = len(qkv_KX), _depth(qkv_KX, spans, num_heads, num_key_heads)
    out_KX = qkv_KX.new_empty(num, num_heads * depth)
    peak_KH2 = qkv_KX.new_empty(num, num_heads, 2, dtype=torch.float32)
    if num:
        segments = spans.segments.to(qkv_KX.device)
        grid = (len(segments), triton.cdiv(int(spans.segments[:, 1].max()), QUERIES), num_heads)
        heads = (num_heads, num_key_heads, depth)
        _attend[grid](qkv_KX, segments, out_KX, peak_KH2, scale, *heads, **_sizes(depth, qkv_KX.dtype))
    return out_KX, peak_KH2


@triton.jit
def _slopes(q, k, v, do, top, share, dot, scale, seen, WIDE: tl.constexpr):
    """(P, dS) of a tile of queries and keys."""
    z = _scores(q, k, scale, seen, WIDE)
    p = tl.exp(z - top[:, None]) * share[:, None]
    return p, p * (product(do, tl.trans(v), WIDE) - dot[:, None])


@triton.jit
def _query_slopes(
    qkv, segments, dout, peak, dots, dqkv, scale, heads, key_heads, depth,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    segment, block, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, length = tl.load(segments + 4 * segment), tl.load(segments + 4 * segment + 1)
    prompt, size = tl.load(segments + 4 * segment + 2), tl.load(segments + 4 * segment + 3)
    if block * M < length:
        stride = (heads + 2 * key_heads) * depth
        key = qkv + (heads + head // (heads // key_heads)) * depth
        value = key + key_heads * depth
        row, near, col = block * M + tl.arange(0, M), tl.arange(0, N), tl.arange(0, D)
        q = _tile(qkv + head * depth, start, length, stride, row, D, M, depth)
        do = _tile(dout + head * depth, start, length, heads * depth, row, D, M, depth)
        at_head = (start + row).to(tl.int64) * heads + head
        top = tl.load(peak + 2 * at_head, mask=row < length, other=0.0)
        share = tl.load(peak + 2 * at_head + 1, mask=row < length, other=0.0)
        dot = tl.load(dots + at_head, mask=row < length, other=0.0)
        slope = tl.zeros((M, D), tl.float32)
        own = tl.minimum(length, block * M + M)
        for begin in range(0, size + own, N):
            at = begin + near
            place = tl.where(at < size, prompt + at, start + at - size)
            inside = (at[:, None] < size + own) & (col[None, :] < depth)
            where = place[:, None].to(tl.int64) * stride + col[None, :]
            k, v = tl.load(key + where, mask=inside, other=0.0), tl.load(value + where, mask=inside, other=0.0)
            _, ds = _slopes(q, k, v, do, top, share, dot, scale, at[None, :] - size <= row[:, None], WIDE)
            slope += product(ds.to(k.dtype), k, WIDE)
        to = dqkv + (start + row)[:, None].to(tl.int64) * stride + head * depth + col[None, :]
        tl.store(to, (scale * slope).to(q.dtype), mask=(row[:, None] < length) & (col[None, :] < depth))


@triton.jit
def _key_slopes(
    qkv, segments, children, dout, peak, dots, dqkv, scale, heads, key_heads, depth,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    segment, block, key_head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start, length = tl.load(segments + 4 * segment), tl.load(segments + 4 * segment + 1)
    first, num = tl.load(children + 2 * segment), tl.load(children + 2 * segment + 1)
    if block * N < length:
        stride, repeats = (heads + 2 * key_heads) * depth, heads // key_heads
        from_key = (heads + key_head) * depth
        near, col = block * N + tl.arange(0, N), tl.arange(0, D)
        k = _tile(qkv + from_key, start, length, stride, near, D, N, depth)
        v = _tile(qkv + from_key + key_heads * depth, start, length, stride, near, D, N, depth)
        dk, dv = tl.zeros((N, D), tl.float32), tl.zeros((N, D), tl.float32)
        for turn in range(num + 1):  # the segment's own queries, then those of its branches, which see all of it
            other = tl.where(turn == 0, segment, first + turn - 1)
            begin_at, many = tl.load(segments + 4 * other), tl.load(segments + 4 * other + 1)
            for begin in range(tl.where(turn == 0, block * N // M * M, 0), many, M):
                row = begin + tl.arange(0, M)
                seen = (row[:, None] >= near[None, :]) | (turn > 0)
                seen = seen & (row[:, None] < many) & (near[None, :] < length)
                for repeat in range(repeats):
                    head = key_head * repeats + repeat
                    q = _tile(qkv + head * depth, begin_at, many, stride, row, D, M, depth)
                    do = _tile(dout + head * depth, begin_at, many, heads * depth, row, D, M, depth)
                    at_head = (begin_at + row).to(tl.int64) * heads + head
                    top = tl.load(peak + 2 * at_head, mask=row < many, other=0.0)
                    share = tl.load(peak + 2 * at_head + 1, mask=row < many, other=0.0)
                    dot = tl.load(dots + at_head, mask=row < many, other=0.0)
                    p, ds = _slopes(q, k, v, do, top, share, dot, scale, seen, WIDE)
                    dk += product(tl.trans(ds.to(q.dtype)), q, WIDE)
                    dv += product(tl.trans(p.to(do.dtype)), do, WIDE)
        inside = (near[:, None] < length) & (col[None, :] < depth)
        to = dqkv + (start + near)[:, None].to(tl.int64) * stride + from_key + col[None, :]
        tl.store(to, (scale * dk).to(k.dtype), mask=inside)
        tl.store(to + key_heads * depth, dv.to(k.dtype), mask=inside)


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
    num, depth = len(qkv_KX), _depth(qkv_KX, spans, num_heads, num_key_heads)
    shape = (num, num_heads * depth)
    require((out_KX, shape), (dout_KX, shape), dtype=qkv_KX.dtype)
    require((peak_KH2, (num, num_heads, 2)), dtype=torch.float32)
    dqkv_KX = torch.empty_like(qkv_KX)
    if num:
        dots_KH = (out_KX.float() * dout_KX.float()).view(num, num_heads, depth).sum(-1)
        segments, longest = spans.segments.to(qkv_KX.device), int(spans.segments[:, 1].max())
        children = torch.zeros(len(segments), 2, dtype=torch.long)
        children[: len(spans.children)] = spans.children
        given = (dout_KX, peak_KH2, dots_KH, dqkv_KX, scale, num_heads, num_key_heads, depth)
        sizes = _sizes(depth, qkv_KX.dtype)
        _query_slopes[(len(segments), triton.cdiv(longest, QUERIES), num_heads)](qkv_KX, segments, *given, **sizes)
        grid = (len(segments), triton.cdiv(longest, KEYS), num_key_heads)
        _key_slopes[grid](qkv_KX, segments, children.to(qkv_KX.device), *given, **sizes)
    return dqkv_KX


def _sizes(depth: int, dtype: torch.dtype) -> dict[str, int]:
    return {"D": at_least_16(depth), "M": QUERIES, "N": KEYS, "WIDE": wide_products(dtype)}


def at_least_16(num: int) -> int:
    """As products want it: a power of two, 16 at least."""
    return max(16, int(triton.next_power_of_2(num)))


def wide_products(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or os.environ.get("TRITON_INTERPRET") == "1"


def _depth(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int) -> int:
    require((qkv_KX, tuple(qkv_KX.shape)), dtype=qkv_KX.dtype)
    return spans.depth(qkv_KX, num_heads, num_key_heads)
