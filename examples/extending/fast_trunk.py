"""A fast trunk of one's own: GPT-2, whose attention runs on the kernels.

    import fast_trunk    # registers it: a GPT-2 that is loaded from now on takes it, once it has been measured

A layer adds attention, then an MLP, to the stream; there is nothing to rotate, and positions are embedded:

    x1 = x + attention(ln(x) Wqkv + b) Wo + b;      x' = x1 + mlp(ln(x1))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from upslope.model.fast_trunks import register_fast_trunk
from upslope.model.layout import Layout
from upslope.model.table_decoder import Mix, TableDecoder
from upslope.native.heads import Heads
from upslope.native.ops import Ops, ops_for
from upslope.native.spans import Spans


class Attend(torch.autograd.Function):
    """``Ops.attend`` with its gradient."""

    @staticmethod
    def forward(ctx: Any, qkv_KX: Tensor, spans: Spans, heads: Heads, ops: Ops) -> Tensor:
        out_KX, peak_KH2 = ops.attend(qkv_KX, spans, heads.num, heads.num_keys, heads.scale)
        ctx.spans, ctx.heads, ctx.ops = spans, heads, ops
        ctx.save_for_backward(qkv_KX, out_KX, peak_KH2)
        return out_KX

    @staticmethod
    def backward(ctx: Any, dout_KX: Tensor) -> tuple[Tensor, None, None, None]:
        qkv_KX, out_KX, peak_KH2 = ctx.saved_tensors
        heads = (ctx.heads.num, ctx.heads.num_keys, ctx.heads.scale)
        dqkv_KX = ctx.ops.attend_backward(qkv_KX, out_KX, dout_KX.contiguous(), peak_KH2, ctx.spans, *heads)
        return dqkv_KX, None, None, None


class Gpt2Trunk:
    """A ``FastTrunk``. It calls the model's own modules, so an adapter on any of them is heard."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._weight = body.wte.weight
        self._ops = ops_for(self._weight.device, self._weight.dtype)
        num, depth = body.config.n_head, body.config.n_embd // body.config.n_head
        self._heads = Heads(num, num, depth, depth**-0.5)

    def states(self, layout: Layout, *, checkpointing: bool = False) -> Tensor:
        def mix(_: int, qkv_KX: Tensor) -> Tensor:
            return Attend.apply(qkv_KX, layout.spans, self._heads, self._ops)

        x_KC = self._embedded(layout.id_K, layout.position_K)
        for index in range(len(self._body.h)):
            if checkpointing:
                x_KC = checkpoint(self._layer, index, x_KC, mix, use_reentrant=False)
            else:
                x_KC = self._layer(index, x_KC, mix)
        return self._body.ln_f(x_KC.index_select(0, layout.predictor_R))

    def decoder(self, head: nn.Module, num_rows: int, max_tokens: int) -> TableDecoder:
        num_layers = len(self._body.h)
        return TableDecoder(self, head, self._ops, self._heads, num_layers, num_rows, max_tokens, self._weight)

    # What a TableDecoder asks of a trunk:

    def angles(self, position_K: Tensor) -> tuple[Tensor, Tensor]:
        """No angle: nothing is turned."""
        cosine_KF = torch.ones(len(position_K), self._heads.depth // 2, device=position_K.device, dtype=torch.float32)
        return cosine_KF, torch.zeros_like(cosine_KF)

    def through(self, id_X: Tensor, position_X: Tensor, mix: Mix) -> Tensor:
        x_XC = self._embedded(id_X, position_X)
        for index in range(len(self._body.h)):
            x_XC = self._layer(index, x_XC, mix)
        return self._body.ln_f(x_XC)

    prefill = through
    """The last layer's MLP is computed for nothing, which is simple."""

    def _embedded(self, id_X: Tensor, position_X: Tensor) -> Tensor:
        return self._body.wte(id_X) + self._body.wpe(position_X)

    def _layer(self, index: int, x_XC: Tensor, mix: Mix) -> Tensor:
        block = self._body.h[index]
        x_XC = x_XC + block.attn.c_proj(mix(index, block.attn.c_attn(block.ln_1(x_XC))))
        return x_XC + block.mlp(block.ln_2(x_XC))


@register_fast_trunk
def gpt2_trunk(body: Any) -> Gpt2Trunk | None:
    """The body's trunk, if it is a GPT-2 with nothing in it that is not written above."""
    if type(body).__name__ != "GPT2Model":
        return None
    config = body.config
    odd = config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention
    return None if odd or config.n_embd // config.n_head % 2 else Gpt2Trunk(body)
