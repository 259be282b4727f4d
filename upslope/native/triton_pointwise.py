"""Norms, rotations and the gated activation in Triton, as ``Ops`` describes them. A program has a row, or a share of
the rows where there is a sum over them; T rounds where the C kernels round."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from upslope.native.heads import require_heads_fit

SHARES = 32
"""Parts of a sum over rows, so that its order does not depend on the device."""
BLOCK = 1024


@triton.jit
def _norm(x, add, weight, total, out, rstd, width, eps, ADD: tl.constexpr, KEEP: tl.constexpr, W: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, W)
    inside = at < width
    s = tl.load(x + row * width + at, mask=inside, other=0.0)
    if ADD:
        s = (s.to(tl.float32) + tl.load(add + row * width + at, mask=inside, other=0.0).to(tl.float32)).to(s.dtype)
        tl.store(total + row * width + at, s, mask=inside)
    wide = s.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=0) / width + eps)
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (by * (wide * scale).to(s.dtype).to(tl.float32)).to(s.dtype), mask=inside)
    if KEEP:
        tl.store(rstd + row, scale)


def norm(
    x_KC: Tensor, add_KC: Tensor | None, weight_C: Tensor, eps: float, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    rows, width = x_KC.shape
    require((x_KC, (rows, width)), (add_KC, (rows, width)), (weight_C, (width,)), dtype=x_KC.dtype)
    sum_KC = x_KC if add_KC is None else torch.empty_like(x_KC)
    out_KC = torch.empty_like(x_KC)
    rstd_K = x_KC.new_empty(rows if keep else 0, dtype=torch.float32)
    if rows:
        whole, added = triton.next_power_of_2(width), add_KC is not None
        given = (x_KC, add_KC if added else x_KC, weight_C, sum_KC, out_KC, rstd_K)
        _norm[(rows,)](*given, width, eps, ADD=added, KEEP=keep, W=whole)
    return sum_KC, out_KC, rstd_K if keep else None


@triton.jit
def _norm_backward(
    dout, x, rstd, weight, rest, dx, partial, rows, width, REST: tl.constexpr, SHARES: tl.constexpr, W: tl.constexpr
):
    share, at = tl.program_id(0), tl.arange(0, W)
    inside = at < width
    by = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    mine = tl.zeros((W,), dtype=tl.float32)
    for row in range(share * rows // SHARES, (share + 1) * rows // SHARES):
        d = tl.load(dout + row * width + at, mask=inside, other=0.0).to(tl.float32)
        raw = tl.load(x + row * width + at, mask=inside, other=0.0)
        wide, scale = raw.to(tl.float32), tl.load(rstd + row)
        pull = tl.sum(d * by * wide, axis=0) / width * scale * scale
        slope = scale * (d * by - wide * pull)
        if REST:
            slope += tl.load(rest + row * width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + row * width + at, slope.to(raw.dtype), mask=inside)
        mine += d * wide * scale
    tl.store(partial + share * width + at, mine, mask=inside)


def norm_backward(
    dout_KC: Tensor, x_KC: Tensor, rstd_K: Tensor, weight_C: Tensor, residual_KC: Tensor | None
) -> tuple[Tensor, Tensor]:
    rows, width = x_KC.shape
    shape = (rows, width)
    require((dout_KC, shape), (x_KC, shape), (weight_C, (width,)), (residual_KC, shape), dtype=x_KC.dtype)
    require((rstd_K, (rows,)), dtype=torch.float32)
    dx_KC, partial = torch.empty_like(x_KC), x_KC.new_empty(SHARES, width, dtype=torch.float32)
    rest = x_KC if residual_KC is None else residual_KC
    sizes = {"REST": residual_KC is not None, "SHARES": SHARES, "W": triton.next_power_of_2(width)}
    _norm_backward[(SHARES,)](dout_KC, x_KC, rstd_K, weight_C, rest, dx_KC, partial, rows, width, **sizes)
    return dx_KC, partial.sum(0)


@triton.jit
def _rotary(rows, cosine, sine, stride, heads, half, turn, HP: tl.constexpr, FP: tl.constexpr):
    row, head, at = tl.program_id(0), tl.arange(0, HP)[:, None], tl.arange(0, FP)[None, :]
    angle = at < half
    inside = (head < heads) & angle
    first = rows + row * stride + head * 2 * half + at
    a, b = tl.load(first, mask=inside, other=0.0), tl.load(first + half, mask=inside, other=0.0)
    c = tl.load(cosine + row * half + at, mask=angle, other=0.0)
    s = turn * tl.load(sine + row * half + at, mask=angle, other=0.0)
    tl.store(first, (a.to(tl.float32) * c - b.to(tl.float32) * s).to(a.dtype), mask=inside)
    tl.store(first + half, (b.to(tl.float32) * c + a.to(tl.float32) * s).to(a.dtype), mask=inside)


def rotary_(rows_KX: Tensor, cosine_KF: Tensor, sine_KF: Tensor, num_heads: int, *, back: bool = False) -> None:
    num, half = cosine_KF.shape
    require((cosine_KF, (num, half)), (sine_KF, (num, half)), dtype=torch.float32)
    require((rows_KX, (num, rows_KX.shape[1])), dtype=rows_KX.dtype)
    require_heads_fit(rows_KX.shape[1], 0, num_heads, 2 * half)
    if num:
        sizes = {"HP": triton.next_power_of_2(num_heads), "FP": triton.next_power_of_2(half)}
        turn = -1.0 if back else 1.0
        _rotary[(num,)](rows_KX, cosine_KF, sine_KF, rows_KX.shape[1], num_heads, half, turn, **sizes)


@triton.jit
def _head_norm(rows, weight, stride, first, heads, depth, eps, HP: tl.constexpr, DP: tl.constexpr):
    row, head, at = tl.program_id(0), tl.arange(0, HP)[:, None], tl.arange(0, DP)[None, :]
    inside = (head < heads) & (at < depth)
    place = rows + row * stride + first + head * depth + at
    x = tl.load(place, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=1)[:, None] / depth + eps)
    by = tl.load(weight + at, mask=at < depth, other=0.0).to(tl.float32)
    tl.store(place, (by * (wide * scale).to(x.dtype).to(tl.float32)).to(x.dtype), mask=inside)


def head_norm_(rows_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float) -> None:
    (num, stride), depth = rows_KX.shape, len(weight_D)
    require((rows_KX, (num, stride)), (weight_D, (depth,)), dtype=rows_KX.dtype)
    require_heads_fit(stride, first, num_heads, depth)
    if num:
        sizes = {"HP": triton.next_power_of_2(num_heads), "DP": triton.next_power_of_2(depth)}
        _head_norm[(num,)](rows_KX, weight_D, stride, first, num_heads, depth, eps, **sizes)


@triton.jit
def _head_norm_backward(
    dout, raw, weight, partial, rows, stride, first, heads, depth, eps,
    SHARES: tl.constexpr, HP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    share, head, at = tl.program_id(0), tl.arange(0, HP)[:, None], tl.arange(0, DP)[None, :]
    inside = (head < heads) & (at < depth)
    by = tl.load(weight + at, mask=at < depth, other=0.0).to(tl.float32)
    mine = tl.zeros((HP, DP), dtype=tl.float32)
    for row in range(share * rows // SHARES, (share + 1) * rows // SHARES):
        place = row * stride + first + head * depth + at
        x = tl.load(raw + place, mask=inside, other=0.0)
        wide, d = x.to(tl.float32), tl.load(dout + place, mask=inside, other=0.0).to(tl.float32)
        scale = 1 / tl.sqrt(tl.sum(wide * wide, axis=1)[:, None] / depth + eps)
        pull = tl.sum(d * by * wide, axis=1)[:, None] / depth * scale * scale
        tl.store(dout + place, (scale * (d * by - wide * pull)).to(x.dtype), mask=inside)
        mine += d * wide * scale
    sums = tl.sum(mine, axis=0)
    only = tl.arange(0, DP)
    tl.store(partial + share * depth + only, sums, mask=only < depth)


def head_norm_backward_(
    dout_KX: Tensor, raw_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float
) -> Tensor:
    (num, stride), depth = raw_KX.shape, len(weight_D)
    require((dout_KX, (num, stride)), (raw_KX, (num, stride)), (weight_D, (depth,)), dtype=raw_KX.dtype)
    require_heads_fit(stride, first, num_heads, depth)
    partial = raw_KX.new_empty(SHARES, depth, dtype=torch.float32)
    sizes = {"SHARES": SHARES, "HP": triton.next_power_of_2(num_heads), "DP": triton.next_power_of_2(depth)}
    given = (dout_KX, raw_KX, weight_D, partial, num, stride, first, num_heads, depth, eps)
    _head_norm_backward[(SHARES,)](*given, **sizes)
    return partial.sum(0)


@triton.jit
def _swiglu(both, out, width, B: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    inside, gates = at < width, both + row * 2 * width
    gate = tl.load(gates + at, mask=inside, other=0.0)
    up = tl.load(gates + width + at, mask=inside, other=0.0).to(tl.float32)
    g = gate.to(tl.float32)
    silu = (g / (1 + tl.exp(-g))).to(gate.dtype).to(tl.float32)
    tl.store(out + row * width + at, (silu * up).to(gate.dtype), mask=inside)


def swiglu(both_KX: Tensor) -> Tensor:
    rows, width = both_KX.shape[0], both_KX.shape[1] // 2
    require((both_KX, (rows, 2 * width)), dtype=both_KX.dtype)
    out_KI = both_KX.new_empty(rows, width)
    if rows:
        _swiglu[(rows, triton.cdiv(width, BLOCK))](both_KX, out_KI, width, B=BLOCK)
    return out_KI


@triton.jit
def _swiglu_backward(both, dout, width, B: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * B + tl.arange(0, B)
    inside, gates = at < width, both + row * 2 * width
    gate = tl.load(gates + at, mask=inside, other=0.0)
    up = tl.load(gates + width + at, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dout + row * width + at, mask=inside, other=0.0).to(tl.float32)
    g = gate.to(tl.float32)
    s = 1 / (1 + tl.exp(-g))
    silu = (g * s).to(gate.dtype).to(tl.float32)
    tl.store(dout + row * width + at, (silu * up).to(gate.dtype), mask=inside)
    tl.store(gates + at, (dy * up * s * (1 + g * (1 - s))).to(gate.dtype), mask=inside)
    tl.store(gates + width + at, (dy * silu).to(gate.dtype), mask=inside)


def swiglu_backward_(both_KX: Tensor, dout_KI: Tensor) -> None:
    rows, width = dout_KI.shape
    require((both_KX, (rows, 2 * width)), (dout_KI, (rows, width)), dtype=both_KX.dtype)
    if rows:
        _swiglu_backward[(rows, triton.cdiv(width, BLOCK))](both_KX, dout_KI, width, B=BLOCK)


def require(*sizes: tuple[Tensor | None, tuple[int, ...]], dtype: torch.dtype) -> None:
    """Contiguous tensors of these shapes and this dtype, one that the kernels compute in."""
    for tensor, shape in sizes:
        if tensor is not None and (tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous()):
            raise ValueError(
                f"a Triton kernel needs contiguous {dtype} of {shape}, not {tensor.dtype} of {tensor.shape}"
            )
        if tensor is not None and tensor.dtype not in (torch.float32, torch.bfloat16, torch.float64, torch.long):
            raise KeyError(tensor.dtype)
