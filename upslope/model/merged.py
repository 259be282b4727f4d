"""Packed attention by a kernel that knows no mask: every segment causal on itself, branches on the whole of their stem,
and the two put together by their log-sum-exps.

For a token with scores s over the keys of both halves a and b, lse = log sum exp s = logaddexp(lse_a, lse_b), and the
softmax over all keys is exp(s - lse), so out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b. The gradient of a score
is exp(s - lse) (dout . v - dout . out), which has nothing of the halves but s and v: a kernel's backward that is given
the merged out and lse gives each half's share of it, exactly.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from upslope.model.cuts import Cuts, Halves


class Calls(Protocol):
    """A kernel's two calls. X queries and Y keys lie end to end; sequence s of the queries sees sequence s of the keys:
    whole, or up to its own place (``causal``, where both have the same length). Groups of heads share keys."""

    def forward(
        self, query_XHD: Tensor, key_YJD: Tensor, value_YJD: Tensor, asked: Cuts, read: Cuts, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """(out [X, H, D], log-sum-exp of the scores [H, X], at least in float32)."""
        ...

    def backward(
        self,
        dout_XHD: Tensor,
        query_XHD: Tensor,
        key_YJD: Tensor,
        value_YJD: Tensor,
        out_XHD: Tensor,
        lse_HX: Tensor,
        asked: Cuts,
        read: Cuts,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of queries, keys and values, for weights exp(score - ``lse``) and that ``out``."""
        ...


def merged_attention(
    query_HKD: Tensor, key_JKD: Tensor, value_JKD: Tensor, halves: Halves, scale: float | None, calls: Calls
) -> Tensor:
    """[K, H, D]. ``scale`` None: one over the root of D."""
    query_KHD, key_KJD, value_KJD = (x.transpose(0, 1).contiguous() for x in (query_HKD, key_JKD, value_JKD))
    scale = query_HKD.shape[-1] ** -0.5 if scale is None else scale
    out_KHD: Tensor = _Merged.apply(query_KHD, key_KJD, value_KJD, halves, scale, calls)  # type: ignore[no-untyped-call]
    return out_KHD


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_KHD: Tensor, key_KJD: Tensor, value_KJD: Tensor, halves: Halves, scale: float, calls: Calls
    ) -> Tensor:
        own, stems = halves
        out_KHD, lse_HK = calls.forward(query_KHD, key_KJD, value_KJD, own, own, True, scale)
        if stems is not None:
            asking, read = stems.asking_X, stems.read_Y
            out_XHD, lse_HX = calls.forward(
                query_KHD[asking], key_KJD[read], value_KJD[read], stems.asked, stems.read, False, scale
            )
            out_KHD[asking], lse_HK[:, asking] = merge(out_KHD[asking], lse_HK[:, asking], out_XHD, lse_HX)
        ctx.save_for_backward(query_KHD, key_KJD, value_KJD, out_KHD, lse_HK)
        ctx.halves, ctx.scale, ctx.calls = halves, scale, calls
        return out_KHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_KHD: Tensor) -> tuple[Tensor | None, ...]:
        query_KHD, key_KJD, value_KJD, out_KHD, lse_HK = ctx.saved_tensors
        (own, stems), scale, calls = ctx.halves, ctx.scale, ctx.calls
        dout_KHD = dout_KHD.contiguous()
        given = (dout_KHD, query_KHD, key_KJD, value_KJD, out_KHD, lse_HK)
        dquery_KHD, dkey_KJD, dvalue_KJD = calls.backward(*given, own, own, True, scale)
        if stems is not None:
            asking, read = stems.asking_X, stems.read_Y
            dquery_XHD, dkey_YJD, dvalue_YJD = calls.backward(
                dout_KHD[asking],
                query_KHD[asking],
                key_KJD[read],
                value_KJD[read],
                out_KHD[asking],
                lse_HK[:, asking].contiguous(),
                stems.asked,
                stems.read,
                False,
                scale,
            )
            dquery_KHD[asking] += dquery_XHD  # no place stands twice in either
            dkey_KJD[read] += dkey_YJD
            dvalue_KJD[read] += dvalue_YJD
        return dquery_KHD, dkey_KJD, dvalue_KJD, None, None, None


def merge(out_XHD: Tensor, lse_HX: Tensor, other_XHD: Tensor, other_HX: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys as over both: (out, lse), the weights in the precision of ``lse``."""
    both_HX = torch.logaddexp(lse_HX, other_HX)
    out, other = ((lse - both_HX).exp().T[..., None] for lse in (lse_HX, other_HX))
    return (out * out_XHD + other * other_XHD).to(out_XHD.dtype), both_HX
