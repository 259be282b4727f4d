"""The Llama family's trunk on a CPU: the products of torch, and between them the native kernels.

A pre-norm decoder layer (Llama, SmolLM, Qwen2, Qwen3, Mistral), with x the residual stream and d what the layer before
still has to add to it:

    x1 = x + d;     h1 = norm(x1);  q, k, v = h1 Wqkv + b;  a = attention(rope(q), rope(k), v) Wo
    x2 = x1 + a;    h2 = norm(x2);  d' = (silu(h2 Wgate) * (h2 Wup)) Wdown

One autograd node a layer. What its backward needs and can have again for a pass over memory (norms, silu) is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from upslope.model.layout import Layout
from upslope.native import kernels
from upslope.native.kernels import Spans

FAMILY = ("LlamaModel", "Qwen2Model", "Qwen3Model", "MistralModel")
STILL_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on nothing but the position."""


class Layer(NamedTuple):
    """A layer's parameters; None where the architecture has none."""

    norm1: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Tensor
    o_bias: Tensor | None
    norm2: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None

    def qkv(self) -> tuple[Tensor, Tensor | None]:
        """The three projections as one, [(H + 2J) D, C]."""
        return torch.cat([self.q, self.k, self.v]), _joined(self.q_bias, self.k_bias, self.v_bias)

    def gate_up(self) -> tuple[Tensor, Tensor | None]:
        """The two projections as one, [2I, C]."""
        return torch.cat([self.gate, self.up]), _joined(self.gate_bias, self.up_bias)


def _joined(*parts: Tensor | None) -> Tensor | None:
    found = [p for p in parts if p is not None]
    return torch.cat(found) if found else None


@dataclass(frozen=True)
class Shape:
    """What all layers have in common."""

    num_heads: int
    num_key_heads: int
    depth: int
    scale: float
    eps: float


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


class Trunk:
    """A transformers body (the model without its head), computed here; the parameters are its own."""

    def __init__(self, body: Any) -> None:
        config = body.config
        depth = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.shape = Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            depth,
            body.layers[0].self_attn.scaling,
            config.rms_norm_eps,
        )
        self._body = body
        self.layers = [_layer(module) for module in body.layers]

    @property
    def norm(self) -> Tensor:
        return self._body.norm.weight  # type: ignore[no-any-return]

    @property
    def embedding(self) -> Tensor:
        return self._body.embed_tokens.weight  # type: ignore[no-any-return]

    def angles(self, position_K: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every position, [K, D / 2], rounded as transformers rounds them."""
        cosine, sine = self._body.rotary_emb(self.embedding, position_K[None])
        half = self.shape.depth // 2
        return cosine[0, :, :half].float().contiguous(), sine[0, :, :half].float().contiguous()

    def states(self, layout: Layout, *, checkpointing: bool = False) -> Tensor:
        """The hidden states before each scored token, after the last norm, with gradient: [R, C]."""
        plan = Plan(*self.angles(layout.position_K), layout.spans, checkpointing, torch.is_grad_enabled())
        stream = self._body.embed_tokens(layout.id_K)  # the module: a padding token gets no gradient there
        delta = torch.zeros_like(stream)
        for layer in self.layers:
            stream, delta = _LayerPass.apply(stream, delta, self.shape, plan, *layer)  # type: ignore[no-untyped-call]
        rows_RC = (stream + delta).index_select(0, layout.predictor_R)
        return _Norm.apply(rows_RC, self.norm, self.shape.eps)  # type: ignore[no-any-return, no-untyped-call]


def native_trunk(body: Any) -> Trunk | None:
    """The body's trunk, if it is one of the family, does nothing that is not written here (no adapter on a layer, no
    other activation), and the kernels are there for its precision and device."""
    if type(body).__name__ not in FAMILY:
        return None
    config = body.config
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    parts = [body.embed_tokens, body.norm]
    for layer in body.layers:
        parts += [layer.input_layernorm, layer.post_attention_layernorm]
        parts += [*layer.self_attn.children(), *layer.mlp.children()]
    if not all(map(_plain, parts)) or config.hidden_act != "silu" or rotation not in STILL_ROTATIONS:
        return None
    trunk = Trunk(body)
    weights = (trunk.embedding, trunk.norm, *(w for layer in trunk.layers for w in layer if w is not None))
    alike = all(w.dtype == trunk.embedding.dtype and w.is_contiguous() for w in weights)
    return trunk if alike and kernels.available(trunk.embedding.dtype, trunk.embedding.device) else None


def _plain(part: nn.Module) -> bool:
    """Whether it is just what the architecture has there: no adapter around it, no parametrisation."""
    kind = type(part)
    known = kind in (nn.Linear, nn.Embedding) or kind.__name__.endswith("RMSNorm")
    return known or next(part.parameters(), None) is None


def _layer(module: Any) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return Layer(
        module.input_layernorm.weight,
        attention.q_proj.weight,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.q_proj.bias,
        attention.k_proj.bias,
        attention.v_proj.bias,
        None if q_norm is None else q_norm.weight,
        None if k_norm is None else k_norm.weight,
        attention.o_proj.weight,
        attention.o_proj.bias,
        module.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
        mlp.gate_proj.bias,
        mlp.up_proj.bias,
        mlp.down_proj.bias,
    )


class Half(NamedTuple):
    """A layer's attention half, as its other half and its backward need it."""

    x1: Tensor
    rstd1: Tensor | None
    raw: Tensor | None
    """qkv before the heads' own norms, where they have any."""
    qkv: Tensor
    """Queries and keys normed and rotated."""
    out: Tensor
    peak: Tensor


def norm_heads_(qkv: Tensor, shape: Shape, layer: Layer) -> None:
    """The norms of query and key heads, in place, where the architecture has them."""
    if layer.q_norm is not None and layer.k_norm is not None:
        kernels.head_norm_(qkv, 0, layer.q_norm, shape.num_heads, shape.eps)
        kernels.head_norm_(qkv, shape.num_heads * shape.depth, layer.k_norm, shape.num_key_heads, shape.eps)


def attention_half(x: Tensor, add: Tensor | None, shape: Shape, plan: Plan, layer: Layer, keep: bool) -> Half:
    """From the stream to the attention's output before Wo."""
    x1, h1, rstd1 = kernels.norm(x, add, layer.norm1, shape.eps, keep=keep)
    qkv = linear(h1, *layer.qkv())
    raw = qkv.clone() if keep and layer.q_norm is not None else None
    norm_heads_(qkv, shape, layer)
    kernels.rotary_(qkv, plan.cosine_KF, plan.sine_KF, shape.num_heads + shape.num_key_heads)
    out, peak = kernels.attend(qkv, plan.spans, shape.num_heads, shape.num_key_heads, shape.scale)
    return Half(x1, rstd1, raw, qkv, out, peak)


def mlp_half(half: Half, shape: Shape, layer: Layer, keep: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """(x2, d', rstd2, [gate, up]) from the attention's output on."""
    a = linear(half.out, layer.o, layer.o_bias)
    x2, h2, rstd2 = kernels.norm(half.x1, a, layer.norm2, shape.eps, keep=keep)
    both = linear(h2, *layer.gate_up())
    return x2, linear(kernels.swiglu(both), layer.down, layer.down_bias), rstd2, both


class _LayerPass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, delta: Tensor, shape: Shape, plan: Plan, *weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layer = Layer(*weights)  # type: ignore[arg-type]
        learns = plan.learns and any(ctx.needs_input_grad)
        half = attention_half(stream, delta, shape, plan, layer, keep=learns)
        x2, out, rstd2, both = mlp_half(half, shape, layer, keep=learns)
        ctx.shape, ctx.plan, ctx.done = shape, plan, False
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
        layer, shape, plan = Layer(*saved[:num]), ctx.shape, ctx.plan
        if plan.checkpointing:
            half = attention_half(saved[num], None, shape, plan, layer, keep=True)
            x2, _, found, both = mlp_half(half, shape, layer, keep=True)
            rstd2 = cast(Tensor, found)
        else:
            half, (x2, rstd2, both) = Half(*saved[num:-3]), saved[-3:]
        dx2, dd = dx2.contiguous(), dd.contiguous()
        dx2, second = _mlp_backward(dx2, dd, x2, rstd2, both, shape, layer)
        dx1, first = _attention_backward(dx2, half, shape, plan, layer)
        return dx1, dx1, None, None, *Layer(**first, **second)


def _mlp_backward(
    dx2: Tensor, dd: Tensor, x2: Tensor, rstd2: Tensor, both: Tensor, shape: Shape, layer: Layer
) -> tuple[Tensor, dict[str, Any]]:
    """The gradient of x2, and those of this half's parameters; ``both`` is overwritten."""
    dact = dd @ layer.down
    kernels.swiglu_backward_(both, dact)
    dboth, act = both, dact
    ddown = dd.t() @ act
    _, h2, _ = kernels.norm(x2, None, layer.norm2, shape.eps)
    dgate, dup = (dboth.t() @ h2).chunk(2)
    dh2 = dboth @ layer.gate_up()[0]
    dx2, dnorm2 = kernels.norm_backward(dh2, x2, rstd2, layer.norm2, dx2)
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
    dx2: Tensor, half: Half, shape: Shape, plan: Plan, layer: Layer
) -> tuple[Tensor, dict[str, Any]]:
    """The gradient of x1 (which dx2 reaches directly too), and those of this half's parameters."""
    heads = (shape.num_heads, shape.num_key_heads)
    dout = dx2 @ layer.o
    do = dx2.t() @ half.out
    dqkv = kernels.attend_backward(half.qkv, half.out, dout, half.peak, plan.spans, *heads, shape.scale)
    kernels.rotary_(dqkv, plan.cosine_KF, plan.sine_KF, sum(heads), back=True)
    dnorms: list[Tensor | None] = [None, None]
    if half.raw is not None and layer.q_norm is not None and layer.k_norm is not None:
        keys = shape.num_heads * shape.depth
        dnorms = [
            kernels.head_norm_backward_(dqkv, half.raw, first, weight, num, shape.eps).to(dx2.dtype)
            for first, weight, num in zip((0, keys), (layer.q_norm, layer.k_norm), heads, strict=True)
        ]
    _, h1, _ = kernels.norm(half.x1, None, layer.norm1, shape.eps)
    sizes = (len(layer.q), len(layer.k), len(layer.v))
    dq, dk, dv = torch.split_with_sizes(dqkv.t() @ h1, sizes)
    dh1 = dqkv @ layer.qkv()[0]
    assert half.rstd1 is not None
    dx1, dnorm1 = kernels.norm_backward(dh1, half.x1, half.rstd1, layer.norm1, dx2)
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


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        _, out, rstd = kernels.norm(x, None, weight, eps, keep=True)
        ctx.save_for_backward(x, weight, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        dx, dweight = kernels.norm_backward(dout.contiguous(), x, rstd, weight, None)
        return dx, dweight.to(x.dtype), None
