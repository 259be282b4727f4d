"""A layer of the Llama family as one autograd node.

What its backward needs and can have again for a pass over memory (norms, silu) is not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from upslope.model.llama.layer import Half, Plan, attention_half, mlp_half, packed_mix
from upslope.model.llama.weights import Dimensions, Layer, Products
from upslope.native.ops import Ops


class LayerPass(torch.autograd.Function):
    """(x2, d') of (x, d) and the layer's parameters; its backward pass runs once."""

    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, delta: Tensor, dims: Dimensions, ops: Ops, plan: Plan, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        learns = plan.learns and any(ctx.needs_input_grad)
        half, (x2, out, rstd2, both) = _forward(stream, delta, dims, ops, plan, weights, keep=learns)
        ctx.dims, ctx.ops, ctx.plan, ctx.done = dims, ops, plan, False
        kept = (half.x1,) if plan.checkpointing else (*half, x2, rstd2, both)
        ctx.save_for_backward(*weights, *kept)
        return x2, out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx2: Tensor, dd: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.done:
            raise RuntimeError("a layer's backward pass overwrites what it kept, so it runs once")
        ctx.done = True
        saved, num = ctx.saved_tensors, len(Layer._fields)
        layer, dims, ops, plan = Layer(*saved[:num]), ctx.dims, ctx.ops, ctx.plan
        if plan.checkpointing:
            half, (x2, _, found, both) = _forward(saved[num], None, dims, ops, plan, layer, keep=True)
            rstd2 = cast(Tensor, found)
        else:
            half, (x2, rstd2, both) = Half(*saved[num:-3]), saved[-3:]
        dx2, dd = dx2.contiguous(), dd.contiguous()
        dx2, second = _mlp_backward(dx2, dd, x2, rstd2, both, dims, ops, layer)
        dx1, first = _attention_backward(dx2, half, dims, ops, plan, layer)
        return dx1, dx1, None, None, None, *Layer(**first, **second)


def _forward(
    x: Tensor,
    add: Tensor | None,
    dims: Dimensions,
    ops: Ops,
    plan: Plan,
    weights: Sequence[Tensor | None],
    keep: bool,
) -> tuple[Half, tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    layer = Layer(*weights)  # type: ignore[arg-type]
    products = Products.of(layer)
    half = attention_half(x, add, dims, layer, products, ops, packed_mix(ops, dims, plan), keep)
    return half, mlp_half(half, dims, layer, products, ops, keep)


def _mlp_backward(
    dx2: Tensor, dd: Tensor, x2: Tensor, rstd2: Tensor, both: Tensor, dims: Dimensions, ops: Ops, layer: Layer
) -> tuple[Tensor, dict[str, Any]]:
    """The gradient of x2, and those of this half's parameters; ``both`` is overwritten."""
    dact = dd @ layer.down
    ops.swiglu_backward_(both, dact)
    dboth, act = both, dact
    ddown = dd.t() @ act
    _, h2, _ = ops.norm(x2, None, layer.norm2, dims.eps)
    dgate, dup = (dboth.t() @ h2).chunk(2)
    dh2 = dboth @ layer.gate_up()[0]
    dx2, dnorm2 = ops.norm_backward(dh2, x2, rstd2, layer.norm2, dx2)
    gate_bias, up_bias = _bias(dboth, layer.gate_bias, layer.up_bias)
    return dx2, {
        "norm2": dnorm2.to(x2.dtype),
        "gate": dgate,
        "up": dup,
        "down": ddown,
        "gate_bias": gate_bias,
        "up_bias": up_bias,
        "down_bias": _bias(dd, layer.down_bias)[0],
    }


def _attention_backward(
    dx2: Tensor, half: Half, dims: Dimensions, ops: Ops, plan: Plan, layer: Layer
) -> tuple[Tensor, dict[str, Any]]:
    """The gradient of x1 (which dx2 reaches directly too), and those of this half's parameters."""
    shape, heads = dims.heads, (dims.heads.num, dims.heads.num_keys)
    assert half.peak is not None and half.rstd1 is not None
    dout = dx2 @ layer.o
    do = dx2.t() @ half.out
    dqkv = ops.attend_backward(half.qkv, half.out, dout, half.peak, plan.spans, *heads, shape.scale)
    ops.rotary_(dqkv, plan.cosine_KF, plan.sine_KF, sum(heads), back=True)
    dnorms: list[Tensor | None] = [None, None]
    if half.raw is not None and layer.q_norm is not None and layer.k_norm is not None:
        keys = shape.num * shape.depth
        dnorms = [
            ops.head_norm_backward_(dqkv, half.raw, first, weight, num, dims.eps).to(dx2.dtype)
            for first, weight, num in zip((0, keys), (layer.q_norm, layer.k_norm), heads, strict=True)
        ]
    _, h1, _ = ops.norm(half.x1, None, layer.norm1, dims.eps)
    sizes = (len(layer.q), len(layer.k), len(layer.v))
    dq, dk, dv = torch.split_with_sizes(dqkv.t() @ h1, sizes)
    dh1 = dqkv @ layer.qkv()[0]
    dx1, dnorm1 = ops.norm_backward(dh1, half.x1, half.rstd1, layer.norm1, dx2)
    q_bias, k_bias, v_bias = _bias(dqkv, layer.q_bias, layer.k_bias, layer.v_bias)
    return dx1, {
        "norm1": dnorm1.to(dx2.dtype),
        "q": dq,
        "k": dk,
        "v": dv,
        "q_bias": q_bias,
        "k_bias": k_bias,
        "v_bias": v_bias,
        "q_norm": dnorms[0],
        "k_norm": dnorms[1],
        "o": do,
        "o_bias": _bias(dx2, layer.o_bias)[0],
    }


def _bias(dout: Tensor, *biases: Tensor | None) -> list[Tensor | None]:
    """The gradients of biases that were added to neighbouring columns."""
    if any(b is None for b in biases):
        return [None] * len(biases)
    return list(torch.split_with_sizes(dout.sum(0), [len(b) for b in biases if b is not None]))


class LastNorm(torch.autograd.Function):
    """``Ops.norm`` of rows, with gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, ops: Ops) -> Tensor:
        _, out, rstd = ops.norm(x, None, weight, eps, keep=True)
        ctx.ops = ops
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, rstd = ctx.saved_tensors
        dx, dweight = ctx.ops.norm_backward(dout.contiguous(), x, rstd, weight, None)
        return dx, dweight.to(x.dtype), None, None
