"""Norms, rotations and the gated activation of ``torch_ops``."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.native.heads import require_heads_fit


def wide(x: Tensor) -> Tensor:
    """In what sums are made in."""
    return x if x.dtype == torch.float64 else x.float()


def norm(
    x_KC: Tensor, add_KC: Tensor | None, weight_C: Tensor, eps: float, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    sum_KC = x_KC if add_KC is None else x_KC + add_KC
    rstd_K1 = (wide(sum_KC).square().mean(1, keepdim=True) + eps).rsqrt()
    out_KC = weight_C * (wide(sum_KC) * rstd_K1).to(x_KC.dtype)
    return sum_KC, out_KC, rstd_K1[:, 0] if keep else None


def norm_backward(
    dout_KC: Tensor, x_KC: Tensor, rstd_K: Tensor, weight_C: Tensor, residual_KC: Tensor | None
) -> tuple[Tensor, Tensor]:
    dout, x, rstd_K1 = wide(dout_KC), wide(x_KC), rstd_K[:, None]
    dx_KC = _norm_slope(dout * wide(weight_C), x, rstd_K1)
    if residual_KC is not None:
        dx_KC = dx_KC + wide(residual_KC)
    return dx_KC.to(x_KC.dtype), (dout * x * rstd_K1).sum(0)


def _norm_slope(g: Tensor, x: Tensor, rstd: Tensor) -> Tensor:
    return rstd * (g - x * rstd.square() * (g * x).mean(-1, keepdim=True))


def rotary_(rows_KX: Tensor, cosine_KF: Tensor, sine_KF: Tensor, num_heads: int, *, back: bool = False) -> None:
    num, half = cosine_KF.shape
    heads_KHD = rows_KX[:, : num_heads * 2 * half].view(num, num_heads, 2 * half)
    first, second = wide(heads_KHD).chunk(2, dim=-1)
    cosine, sine = wide(cosine_KF)[:, None], wide(sine_KF)[:, None] * (-1 if back else 1)
    heads_KHD.copy_(torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1))


def head_norm_(rows_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float) -> None:
    heads_XD = _heads(rows_KX, first, num_heads, len(weight_D))
    heads_XD.copy_(norm(heads_XD.flatten(0, 1), None, weight_D, eps)[1].view_as(heads_XD))


def head_norm_backward_(
    dout_KX: Tensor, raw_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float
) -> Tensor:
    dout_KHD, raw_KHD = (_heads(x, first, num_heads, len(weight_D)) for x in (dout_KX, raw_KX))
    dout, raw = wide(dout_KHD), wide(raw_KHD)
    rstd_KH1 = (raw.square().mean(-1, keepdim=True) + eps).rsqrt()
    dweight_D = (dout * raw * rstd_KH1).sum((0, 1))
    dout_KHD.copy_(_norm_slope(dout * wide(weight_D), raw, rstd_KH1))
    return dweight_D


def _heads(rows_KX: Tensor, first: int, num_heads: int, depth: int) -> Tensor:
    """These columns as [K, H, D], in the same memory."""
    require_heads_fit(rows_KX.shape[1], first, num_heads, depth)
    return rows_KX[:, first : first + num_heads * depth].view(len(rows_KX), num_heads, depth)


def swiglu(both_KX: Tensor) -> Tensor:
    gate_KI, up_KI = both_KX.chunk(2, dim=1)
    return (wide(gate_KI) * wide(gate_KI).sigmoid()).to(both_KX.dtype) * up_KI


def swiglu_backward_(both_KX: Tensor, dout_KI: Tensor) -> None:
    out_KI = swiglu(both_KX)
    gate, up = wide(both_KX).chunk(2, dim=1)
    share, dout = gate.sigmoid(), wide(dout_KI)
    silu = wide((gate * share).to(both_KX.dtype))
    both_KX.copy_(torch.cat([dout * up * share * (1 + gate * (1 - share)), dout * silu], dim=1))
    dout_KI.copy_(out_KI)
