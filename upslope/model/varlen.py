"""Torch's flash kernels for sequences of unequal length, and whether they may be used here.

The forward call is public (``torch.nn.attention.varlen.varlen_attn``). Its own backward uses the output and log-sum-exp
of that call alone, and drops the gradient of the latter, so it cannot be merged; the kernel's backward that it calls is
private and is called here: ``torch.ops.aten._flash_attention_backward``, with the arguments named as in
tests/model/test_varlen.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from upslope.model.cuts import Cuts
from upslope.model.layout import Layout, Tokens, lay_out
from upslope.model.merged import Calls, merged_attention
from upslope.model.precision import agree
from upslope.plugins import said

MOST_DEPTH = 256
BENDS = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What transformers tells an attention of scores that are not plain, under these names; None where they are."""

Plain = Callable[[Tensor, Tensor, Tensor, Layout, float | None], Tensor]
_REFUSED: dict[tuple[torch.device, torch.dtype, int], str] = {}
"""Why not, of every kind of head that was tried on a device; empty: they may be used."""


class FlashCalls:
    """Torch's flash kernels, as ``Calls``."""

    def forward(
        self, query_XHD: Tensor, key_YJD: Tensor, value_YJD: Tensor, asked: Cuts, read: Cuts, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        from torch.nn.attention.varlen import AuxRequest, varlen_attn

        out_XHD, lse_HX = varlen_attn(
            query_XHD,
            key_YJD,
            value_YJD,
            asked.begin_S,
            read.begin_S,
            asked.longest,
            read.longest,
            return_aux=AuxRequest(lse=True),
            scale=scale,
            window_size=(-1, 0) if causal else (-1, -1),
            enable_gqa=True,
        )
        return out_XHD, lse_HX

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
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=query_XHD.device)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            dout_XHD,
            query_XHD,
            key_YJD,
            value_YJD,
            out_XHD,
            lse_HX,
            asked.begin_S,
            read.begin_S,
            asked.longest,
            read.longest,
            0.0,
            causal,
            no_dropout,
            torch.empty(0, device=query_XHD.device),
            scale=scale,
        )
        return found


def calls_for(query: Tensor, key: Tensor, value: Tensor, more: Mapping[str, Any], plain: Plain) -> Calls | None:
    """The flash kernels where they compute what ``plain`` does, which is tried once a device, dtype and head size;
    ``more`` is what else transformers tells its attention. None: ``plain`` is to be used."""
    if query.device.type != "cuda":
        return None
    if not torch.backends.cuda.flash_sdp_enabled():  # type: ignore[no-untyped-call]  # a second derivative is wanted
        return None
    bent = bool(more.get("dropout")) or any(more.get(name) is not None for name in BENDS)
    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    if bent or not alike or not _fits(query.dtype, query.shape[-1]):
        return None
    return None if refusal(query.device, query.dtype, query.shape[-1], plain) else FlashCalls()


def refusal(device: torch.device, dtype: torch.dtype, depth: int, plain: Plain) -> str:
    """In a line, why packed passes there take ``plain`` though the flash kernels would be faster; empty where they use
    them, or nobody would expect it."""
    if device.type != "cuda" or not _fits(dtype, depth):
        return ""
    kind = (device, dtype, depth)
    if kind not in _REFUSED:
        found = _tried(FlashCalls(), device, dtype, depth, plain)
        _REFUSED[kind] = found and f"attention in learning pads its rows, since torch's flash kernels {found}"
    return _REFUSED[kind]


def _fits(dtype: torch.dtype, depth: int) -> bool:
    return dtype in (torch.bfloat16, torch.float16) and depth % 8 == 0 and depth <= MOST_DEPTH


def _offered() -> bool:
    """Whether this torch has the public call, with a log-sum-exp, a window and heads that share keys."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"return_aux", "window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def _tried(calls: Calls, device: torch.device, dtype: torch.dtype, depth: int, plain: Plain) -> str:
    """What is wrong with them on a few tokens of four heads that share two keys, forward and backward; empty: nothing.
    It is plain torch's rounding that they are allowed."""
    if not _offered():
        return f"are not in torch {torch.__version__}"
    rows = [Tokens(tuple(range(p)), tuple(range(r)), (True,) * r) for p, r in ((9, 4), (9, 7), (5, 3), (2, 3), (2, 9))]
    layout = lay_out(rows, device)
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, layout.num_tokens, depth) for heads in (4, 2, 2, 4)]
    *leaves, weight = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    try:
        with torch.enable_grad():
            found, expected = (
                _with_gradients(way, leaves, weight.transpose(0, 1))
                for way in (
                    lambda query, key, value: merged_attention(query, key, value, layout.halves, None, calls),
                    lambda query, key, value: plain(query, key, value, layout, None),
                )
            )
    except Exception as error:  # whatever a build, a card or a release does that they do not run
        first = next(iter(said(error, str).splitlines()), "")
        return f"do not run here ({type(error).__name__}: {first})"
    return "" if all(map(agree, found, expected)) else "compute something else here"


def _with_gradients(way: Callable[..., Tensor], leaves: list[Tensor], weight: Tensor) -> list[Tensor]:
    given = [leaf.clone().requires_grad_() for leaf in leaves]
    out = way(*given)
    return [out.detach(), *torch.autograd.grad(out, given, weight)]
