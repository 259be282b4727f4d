"""The parameters of a layer of the Llama family, and what all layers have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from upslope.native.heads import Heads
from upslope.native.onednn import Product, product


@dataclass(frozen=True)
class Dimensions:
    """What all layers have in common."""

    heads: Heads
    eps: float
    """Of the norms."""


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


def layer_of(module: Any) -> Layer:
    """The parameters of a transformers decoder layer."""
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


class Products(NamedTuple):
    """A layer's products with its weights."""

    qkv: Product
    o: Product
    gate_up: Product
    down: Product

    @staticmethod
    def of(layer: Layer) -> Products:
        """With the weights as they are at each call."""
        return Products(
            lambda x: linear(x, *layer.qkv()),
            lambda x: linear(x, layer.o, layer.o_bias),
            lambda x: linear(x, *layer.gate_up()),
            lambda x: linear(x, layer.down, layer.down_bias),
        )

    @staticmethod
    def packed(layer: Layer, num_rows: int) -> Products:
        """With the weights as they are now, laid out for some ``num_rows`` rows, without gradient."""
        return Products(
            product(*layer.qkv(), num_rows),
            product(layer.o, layer.o_bias, num_rows),
            product(*layer.gate_up(), num_rows),
            product(layer.down, layer.down_bias, num_rows),
        )
