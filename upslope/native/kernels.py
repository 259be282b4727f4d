"""The kernels as functions of tensors. Each checks what it is given: a wrong pointer would write anywhere.

Rows are contiguous; sums are float32 inside; T is float32 or bfloat16 and the same for all of a call's tensors unless
said otherwise. What each computes stands beside its loop in ``*.h``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from upslope.native.build import library

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}
LANES = 16
"""Floats in a vector."""
PANEL = 64
"""Transposed keys that lie together, as in vector.h."""
SHARES = 32
"""Parts of a sum over rows, as in vector.h."""
_KINDS = {"p": ctypes.c_void_p, "l": ctypes.c_long, "f": ctypes.c_float}
_SIGNATURES = {
    "norm": "ppppppllf",
    "norm_backward": "ppppppppll",
    "rotary": "plpplllf",
    "swiglu": "ppll",
    "swiglu_backward": "ppll",
    "head_norm": "plplllf",
    "head_norm_backward": "pplppplllf",
    "attend": "ppllllfppl",
    "attend_backward": "ppppppllpplllfpl",
    "decode": "ppplllfplppplpppppplllp",
    "draw": "ppfllpp",
    "logps": "ppfllppp",
    "logps_backward": "ppfppll",
}


def available(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels can compute in this precision, on this device, on this machine."""
    return dtype in SUFFIX and device.type == "cpu" and library() is not None


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    loaded = library()
    if loaded is None:
        raise RuntimeError("a native kernel was called where there are none")
    function = getattr(loaded, f"{name}_{SUFFIX[dtype]}")
    function.argtypes = [_KINDS[kind] for kind in _SIGNATURES[name]]
    function.restype = None
    return function  # type: ignore[no-any-return]


def _floats(*shape: int) -> Tensor:
    """A buffer of float32, whatever torch's default is."""
    return torch.empty(shape, dtype=torch.float32)


def _pointers(dtype: torch.dtype, *tensors: Tensor | None) -> list[int | None]:
    """Addresses of contiguous tensors of one type."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype != dtype or not tensor.is_contiguous() or tensor.device.type != "cpu"):
            raise ValueError(f"a native kernel needs contiguous {dtype} on the CPU, not {tensor.dtype}")
    return [None if t is None else t.data_ptr() for t in tensors]


def _require(*sizes: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Tensors of these shapes."""
    for tensor, shape in sizes:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"a native kernel was given {tuple(tensor.shape)} in place of {shape}")


def norm(
    x_KC: Tensor, add_KC: Tensor | None, weight_C: Tensor, eps: float, *, keep: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(sum = x + add, RMS norm of the sum, 1 / root mean square if ``keep``). Without ``add``, the sum is x itself."""
    rows, width = x_KC.shape
    _require((add_KC, (rows, width)), (weight_C, (width,)))
    sum_KC = x_KC if add_KC is None else torch.empty_like(x_KC)
    out_KC = torch.empty_like(x_KC)
    rstd_K = _floats(rows) if keep else None
    x, add, weight, total, out = _pointers(x_KC.dtype, x_KC, add_KC, weight_C, sum_KC, out_KC)
    rstd = None if rstd_K is None else rstd_K.data_ptr()
    _kernel("norm", x_KC.dtype)(x, add, weight, total, out, rstd, rows, width, eps)
    return sum_KC, out_KC, rstd_K


def norm_backward(
    dout_KC: Tensor, x_KC: Tensor, rstd_K: Tensor, weight_C: Tensor, residual_KC: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(dx + residual, dweight in float32)."""
    rows, width = x_KC.shape
    _require((dout_KC, (rows, width)), (rstd_K, (rows,)), (weight_C, (width,)), (residual_KC, (rows, width)))
    dx_KC, dweight_C = torch.empty_like(x_KC), _floats(width)
    partial = _floats(SHARES * width)
    dtype = x_KC.dtype
    dout, x, weight, residual, dx = _pointers(dtype, dout_KC, x_KC, weight_C, residual_KC, dx_KC)
    floats = _pointers(torch.float32, rstd_K, dweight_C, partial)
    _kernel("norm_backward", dtype)(dout, x, floats[0], weight, residual, dx, floats[1], floats[2], rows, width)
    return dx_KC, dweight_C


def rotary_(rows_KX: Tensor, cosine_KF: Tensor, sine_KF: Tensor, num_heads: int, *, back: bool = False) -> None:
    """Rotate the first heads of every row in place; F is half a head's depth."""
    (rows,) = _pointers(rows_KX.dtype, rows_KX)
    cosine, sine = _pointers(torch.float32, cosine_KF, sine_KF)
    num, half = cosine_KF.shape
    _require((sine_KF, (num, half)))
    if rows_KX.shape[0] != num or rows_KX.shape[1] < num_heads * 2 * half:
        raise ValueError(f"{tuple(rows_KX.shape)} does not hold {num} rows of {num_heads} heads of {2 * half}")
    turn = -1.0 if back else 1.0
    _kernel("rotary", rows_KX.dtype)(rows, rows_KX.shape[1], cosine, sine, num, num_heads, half, turn)


def swiglu(both_KX: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate, up]."""
    rows, width = both_KX.shape[0], both_KX.shape[1] // 2
    _require((both_KX, (rows, 2 * width)))
    out_KI = both_KX.new_empty(rows, width)
    _kernel("swiglu", both_KX.dtype)(*_pointers(both_KX.dtype, both_KX, out_KI), rows, width)
    return out_KI


def swiglu_backward_(both_KX: Tensor, dout_KI: Tensor) -> None:
    """``both`` becomes its gradient, ``dout`` the forward's output."""
    rows, width = dout_KI.shape
    _require((both_KX, (rows, 2 * width)))
    _kernel("swiglu_backward", both_KX.dtype)(*_pointers(both_KX.dtype, both_KX, dout_KI), rows, width)


def head_norm_(rows_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float) -> None:
    """RMS norm of every head by itself, in place, for ``num_heads`` heads from column ``first`` on."""
    rows, weight = _pointers(rows_KX.dtype, rows_KX, weight_D)
    at = (rows or 0) + first * rows_KX.element_size()
    num, stride = rows_KX.shape
    _check_columns(stride, first, num_heads, len(weight_D))
    _kernel("head_norm", rows_KX.dtype)(at, stride, weight, num, num_heads, len(weight_D), eps)


def head_norm_backward_(
    dout_KX: Tensor, raw_KX: Tensor, first: int, weight_D: Tensor, num_heads: int, eps: float
) -> Tensor:
    """``dout`` becomes the gradient of ``raw`` in these columns; returns dweight in float32."""
    dtype, (num, stride), depth = raw_KX.dtype, raw_KX.shape, len(weight_D)
    _require((dout_KX, (num, stride)))
    _check_columns(stride, first, num_heads, depth)
    dweight_D, partial = _floats(depth), _floats(SHARES * depth)
    dout, raw, weight = _pointers(dtype, dout_KX, raw_KX, weight_D)
    shift = first * raw_KX.element_size()
    _kernel("head_norm_backward", dtype)(
        (dout or 0) + shift,
        (raw or 0) + shift,
        stride,
        weight,
        *_pointers(torch.float32, dweight_D, partial),
        num,
        num_heads,
        depth,
        eps,
    )
    return dweight_D


def _check_columns(width: int, first: int, num_heads: int, depth: int) -> None:
    if first < 0 or first + num_heads * depth > width:
        raise ValueError(f"a row of {width} does not hold {num_heads} heads of {depth} from column {first} on")


class Spans:
    """Where packed tokens see each other: segments [B, 4] (start, length, prompt's start and length), stems first, and
    each stem's branches [S, 2] (first, number)."""

    def __init__(self, segments: list[tuple[int, int, int, int]], children: list[tuple[int, int]]) -> None:
        self.segments = torch.tensor(segments, dtype=torch.long).reshape(-1, 4)
        self.children = torch.tensor(children, dtype=torch.long).reshape(-1, 2)
        self.num_tokens = int(self.segments[:, 1].sum())
        self.longest = int((self.segments[:, 1] + self.segments[:, 3]).max()) if segments else 0
        end, num_stems = 0, len(children)
        for start, length, *_ in sorted(segments):
            if start != end or length < 0:
                raise ValueError(f"the segments do not cover token {end} once")
            end += length
        branches = [(stem, place) for stem, (first, num) in enumerate(children) for place in range(first, first + num)]
        seen = [(0, 0)] * num_stems + [segments[stem][:2] for stem, _ in branches]
        if [s[2:] for s in segments] != seen or [p for _, p in branches] != list(range(num_stems, len(segments))):
            raise ValueError("stems come first and see no prompt, then their branches, each of which sees its stem")

    def shared_offsets(self, num_heads: int, padded_depth: int) -> tuple[Tensor, int]:
        """Where each branch's copy of its prompt's gradients lies, in floats, and how many there are."""
        sizes = 2 * num_heads * padded_depth * self.segments[:, 3]
        return torch.cumsum(sizes, 0) - sizes, int(sizes.sum())


def padded(num: int) -> int:
    """The next multiple of a vector's 16 floats."""
    return (num + LANES - 1) // LANES * LANES


def paneled(num: int) -> int:
    """The next multiple of a panel's columns."""
    return (num + PANEL - 1) // PANEL * PANEL


def attend(qkv_KX: Tensor, spans: Spans, num_heads: int, num_key_heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """(out [K, H * D], largest score and 1 / sum of exponentials [K, H, 2]) of rotated queries, keys and values."""
    num, depth = qkv_KX.shape[0], _depth(qkv_KX, num_heads, num_key_heads)
    _check_spans(spans, num)
    out_KX = qkv_KX.new_empty(num, num_heads * depth)
    peak_KH2 = _floats(num, num_heads, 2)
    qkv, out = _pointers(qkv_KX.dtype, qkv_KX, out_KX)
    segments = spans.segments.data_ptr()
    heads = (num_heads, num_key_heads, depth, scale)
    _kernel("attend", qkv_KX.dtype)(qkv, segments, len(spans.segments), *heads, out, peak_KH2.data_ptr(), spans.longest)
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
    _require((out_KX, shape), (dout_KX, shape), (peak_KH2, (num, num_heads, 2)))
    offset, size = spans.shared_offsets(num_key_heads, padded(depth))
    shared = _floats(size)
    dqkv_KX = torch.empty_like(qkv_KX)
    dtype = qkv_KX.dtype
    qkv, out, dout, dqkv = _pointers(dtype, qkv_KX, out_KX, dout_KX, dqkv_KX)
    (peak,) = _pointers(torch.float32, peak_KH2)
    _kernel("attend_backward", dtype)(
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


def draw(logits_NV: Tensor, uniform_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(token, logp float64) by the inverse of the cumulative distribution; token -1 where no logit is finite, or one
    is NaN or infinite."""
    num, size = logits_NV.shape
    _require((uniform_N, (num,)))
    token_N, logp_N = torch.empty(num, dtype=torch.long), torch.empty(num, dtype=torch.float64)
    (logits,) = _pointers(logits_NV.dtype, logits_NV)
    uniform, logp = _pointers(torch.float64, uniform_N, logp_N)
    _kernel("draw", logits_NV.dtype)(logits, uniform, 1 / temperature, num, size, token_N.data_ptr(), logp)
    return token_N, logp_N


def logps(logits_CV: Tensor, target_C: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(logp of the targets, entropy, largest logit and 1 / sum of exponentials [C, 2]) of the softmax of
    logits / temperature, in float32."""
    num, size = logits_CV.shape
    _check_targets(target_C, num, size)
    found = [_floats(num), _floats(num), _floats(num, 2)]
    (logits,) = _pointers(logits_CV.dtype, logits_CV)
    (target,) = _pointers(torch.long, target_C)
    _kernel("logps", logits_CV.dtype)(logits, target, 1 / temperature, num, size, *_pointers(torch.float32, *found))
    return found[0], found[1], found[2]


def logps_backward_(logits_CV: Tensor, target_C: Tensor, temperature: float, peak_C2: Tensor, dlogp_C: Tensor) -> None:
    """The logits become their gradient, dlogp (onehot - softmax) / temperature."""
    num, size = logits_CV.shape
    _check_targets(target_C, num, size)
    _require((peak_C2, (num, 2)), (dlogp_C, (num,)))
    (logits,) = _pointers(logits_CV.dtype, logits_CV)
    (target,) = _pointers(torch.long, target_C)
    peak, dlogp = _pointers(torch.float32, peak_C2, dlogp_C)
    _kernel("logps_backward", logits_CV.dtype)(logits, target, 1 / temperature, peak, dlogp, num, size)


def _check_targets(target_C: Tensor, num: int, size: int) -> None:
    _require((target_C, (num,)))
    if num and not 0 <= int(target_C.min()) <= int(target_C.max()) < size:
        raise IndexError(f"a token is not among the {size} of the vocabulary")


def decode(
    qkv_NX: Tensor,
    cosine_NF: Tensor,
    sine_NF: Tensor,
    heads: tuple[int, int, int],
    scale: float,
    table: Any,
    layer: int,
) -> Tensor:
    """Attention of one new token a row: [N, H * D]. ``table`` (rollout.native.Table) holds what the rows have seen; the
    new keys and values are written to it, so there must be room."""
    num_heads, num_key_heads, depth = heads
    num, angles = len(qkv_NX), (len(qkv_NX), depth // 2)
    _require((qkv_NX, (num, (num_heads + 2 * num_key_heads) * depth)), (cosine_NF, angles), (sine_NF, angles))
    _require((table.order_N, (num,)), (table.slot_N, (num,)), (table.written_N, (num,)))
    out_NX = qkv_NX.new_empty(len(qkv_NX), num_heads * depth)
    own = (table.own_keys[layer], table.own_tails[layer], table.own_values[layer])
    qkv, out, keys, tails, values = _pointers(qkv_NX.dtype, qkv_NX, out_NX, *own)
    cosine, sine = _pointers(torch.float32, cosine_NF, sine_NF)
    longs = _pointers(
        torch.long,
        table.crew_C3,
        table.prompt_keys,
        table.prompt_values,
        table.prompt_length,
        table.order_N,
        table.slot_N,
        table.written_N,
    )
    crews, prompt_keys, prompt_values, prompt_length, order, slot, written = longs
    _kernel("decode", qkv_NX.dtype)(
        qkv,
        cosine,
        sine,
        num_heads,
        num_key_heads,
        depth,
        scale,
        crews,
        len(table.crew_C3),
        prompt_keys,
        prompt_values,
        prompt_length,
        layer,
        keys,
        tails,
        values,
        order,
        slot,
        written,
        table.room,
        table.largest_crew,
        table.longest_prompt,
        out,
    )
    return out_NX
