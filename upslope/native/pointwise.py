"""Norms, rotations and the gated activation as functions of tensors (pointwise.h), as ``Ops`` describes them."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.calls import floats, kernel, pointers, require
from upslope.native.heads import require_heads_fit

SHARES = 32
"""Parts of a sum over rows, as in vector.h."""


def norm(
    x_KC: Tensor, add_KC: Tensor | None, weight_C: Tensor, eps: float, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum = x + add, RMS norm of the sum, 1 / root mean square if ``keep``). Without ``add``, the sum is x itself."""
    rows, width = x_KC.shape
    require((add_KC, (rows, width)), (weight_C, (width,)))
    sum_KC = x_KC if add_KC is None else torch.empty_like(x_KC)
    out_KC = torch.empty_like(x_KC)
    rstd_K = floats(rows) if keep else None
    x, add, weight, total, out = pointers(x_KC.dtype, x_KC, add_KC, weight_C, sum_KC, out_KC)
    rstd = None if rstd_K is None else rstd_K.data_ptr()
    kernel("norm", x_KC.dtype)(x, add, weight, total, out, rstd, rows, width, eps)
    return sum_KC, out_KC, rstd_K


def norm_backward(
    dout_KC: Tensor, x_KC: Tensor, rstd_K: Tensor, weight_C: Tensor, residual_KC: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(dx + residual, dweight in float32)."""
    rows, width = x_KC.shape
    require((dout_KC, (rows, width)), (rstd_K, (rows,)), (weight_C, (width,)), (residual_KC, (rows, width)))
    dx_KC, dweight_C = torch.empty_like(x_KC), floats(width)
    partial = floats(SHARES * width)
    dtype = x_KC.dtype
    dout, x, weight, residual, dx = pointers(dtype, dout_KC, x_KC, weight_C, residual_KC, dx_KC)
    sums = pointers(torch.float32, rstd_K, dweight_C, partial)
    kernel("norm_backward", dtype)(dout, x, sums[0], weight, residual, dx, sums[1], sums[2], rows, width)
    return dx_KC, dweight_C


def rotary_(rows_KX: Tensor, cosine_KF: Tensor, sine_KF: Tensor, num_heads: int, *, back: bool = False) -> None:
    """Rotate the first heads of every row in place; F is half a head's depth."""
    (rows,) = pointers(rows_KX.dtype, rows_KX)
    cosine, sine = pointers(torch.float32, cosine_KF, sine_KF)
    num, half = cosine_KF.shape
    require((sine_KF, (num, half)))
    if rows_KX.shape[0] != num or rows_KX.shape[1] < num_heads * 2 * half:
        raise ValueError(f"{tuple(rows_KX.shape)} does not hold {num} rows of {num_heads} heads of {2 * half}")
    turn = -1.0 if back else 1.0
    kernel("rotary", rows_KX.dtype)(rows, rows_KX.shape[1], cosine, sine, num, num_heads, half, turn)


def swiglu(both_KX: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate, up]."""
    rows, width = both_KX.shape[0], both_KX.shape[1] // 2
    require((both_KX, (rows, 2 * width)))
    out_KI = both_KX.new_empty(rows, width)
    kernel("swiglu", both_KX.dtype)(*pointers(both_KX.dtype, both_KX, out_KI), rows, width)
    return out_KI


def swiglu_backward_(both_KX: Tensor, dout_KI: Tensor) -> None:
    """``both`` becomes its gradient, ``dout`` the forward's output."""
    rows, width = dout_KI.shape
    require((both_KX, (rows, 2 * width)))
    kernel("swiglu_backward", both_KX.dtype)(*pointers(both_KX.dtype, both_KX, dout_KI), rows, width)


def head_norm_(rows_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float) -> None:
    """RMS norm of every head by itself, in place, for ``num_heads`` heads from column ``first`` on."""
    rows, weight = pointers(rows_KX.dtype, rows_KX, weight_D)
    at = (rows or 0) + first * rows_KX.element_size()
    num, stride = rows_KX.shape
    require_heads_fit(stride, first, num_heads, len(weight_D))
    kernel("head_norm", rows_KX.dtype)(at, stride, weight, num, num_heads, len(weight_D), eps)


def head_norm_backward_(
    dout_KX: Tensor, raw_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float
) -> Tensor:
    """``dout`` becomes the gradient of ``raw`` in these columns; returns dweight in float32."""
    dtype, (num, stride), depth = raw_KX.dtype, raw_KX.shape, len(weight_D)
    require((dout_KX, (num, stride)))
    require_heads_fit(stride, first, num_heads, depth)
    dweight_D, partial = floats(depth), floats(SHARES * depth)
    dout, raw, weight = pointers(dtype, dout_KX, raw_KX, weight_D)
    shift = first * raw_KX.element_size()
    kernel("head_norm_backward", dtype)(
        (dout or 0) + shift,
        (raw or 0) + shift,
        stride,
        weight,
        *pointers(torch.float32, dweight_D, partial),
        num,
        num_heads,
        depth,
        eps,
    )
    return dweight_D
