"""A layer of the Llama family, forward: the one that learning, prompts and decoding go through.

A pre-norm decoder layer (Llama, SmolLM, Qwen2, Qwen3, Mistral), with x the residual stream and d what the layer before
still has to add to it:

    x1 = x + d;     h1 = norm(x1);  q, k, v = h1 Wqkv + b;  a = attention(rope(q), rope(k), v) Wo
    x2 = x1 + a;    h2 = norm(x2);  d' = (silu(h2 Wgate) * (h2 Wup)) Wdown
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from upslope.model.llama.weights import Dimensions, Layer, Products
from upslope.native.ops import Ops
from upslope.native.spans import Spans

Mix = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""qkv, normed but not rotated, to (the attention's output before Wo, its peaks if there may be a backward pass)."""


@dataclass(frozen=True)
class Plan:
    """Where the tokens of one pass lie: their angles, and who sees whom."""

    cosine_KF: Tensor
    sine_KF: Tensor
    spans: Spans
    checkpointing: bool = False
    """Keep only each layer's input, and compute the rest again in the backward pass."""
    learns: bool = False
    """Whether there may be a backward pass (inside an autograd function one cannot tell)."""


class Half(NamedTuple):
    """A layer's attention half, as its other half and its backward need it."""

    x1: Tensor
    rstd1: Tensor | None
    raw: Tensor | None
    """qkv before the heads' own norms, where they have any."""
    qkv: Tensor
    """Queries and keys normed and rotated."""
    out: Tensor
    peak: Tensor | None


def attention_half(
    x: Tensor, add: Tensor | None, dims: Dimensions, layer: Layer, products: Products, ops: Ops, mix: Mix, keep: bool
) -> Half:
    """From the stream to the attention's output before Wo."""
    x1, h1, rstd1 = ops.norm(x, add, layer.norm1, dims.eps, keep=keep)
    qkv = products.qkv(h1)
    raw = qkv.clone() if keep and layer.q_norm is not None else None
    if layer.q_norm is not None and layer.k_norm is not None:
        ops.head_norm_(qkv, 0, layer.q_norm, dims.heads.num, dims.eps)
        ops.head_norm_(qkv, dims.heads.num * dims.heads.depth, layer.k_norm, dims.heads.num_keys, dims.eps)
    return Half(x1, rstd1, raw, qkv, *mix(qkv))


def mlp_half(
    half: Half, dims: Dimensions, layer: Layer, products: Products, ops: Ops, keep: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """(x2, d', rstd2, [gate, up]) from the attention's output on."""
    x2, h2, rstd2 = ops.norm(half.x1, products.o(half.out), layer.norm2, dims.eps, keep=keep)
    both = products.gate_up(h2)
    return x2, products.down(ops.swiglu(both)), rstd2, both


def packed_mix(ops: Ops, dims: Dimensions, plan: Plan) -> Mix:
    """Attention of packed tokens to each other."""
    heads = dims.heads

    def mix(qkv: Tensor) -> tuple[Tensor, Tensor]:
        ops.rotary_(qkv, plan.cosine_KF, plan.sine_KF, heads.num + heads.num_keys)
        return ops.attend(qkv, plan.spans, heads.num, heads.num_keys, heads.scale)

    return mix
