"""Which models run on the Llama family's trunk."""

from __future__ import annotations

from typing import Any

from torch import nn

from upslope.model.llama.trunk import Trunk
from upslope.native.ops import ops_for

FAMILY = ("LlamaModel", "Qwen2Model", "Qwen3Model", "MistralModel")
STILL_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embedding whose angles depend on nothing but the position."""


def native_trunk(body: Any) -> Trunk | None:
    """The body's trunk, if it is one of the family, does nothing that is not written here (no adapter on a layer, no
    other activation), and there are ops for its precision and device that are faster than its layers."""
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
    weight = body.embed_tokens.weight
    ops = ops_for(weight.device, weight.dtype)
    trunk = Trunk(body, ops)
    weights = (trunk.embedding, trunk.norm, *(w for layer in trunk.layers for w in layer if w is not None))
    alike = all(w.dtype == trunk.embedding.dtype and w.is_contiguous() for w in weights)
    return trunk if alike and ops.fast else None


def _plain(part: nn.Module) -> bool:
    """Whether it is just what the architecture has there: no adapter around it, no parametrisation."""
    kind = type(part)
    known = kind in (nn.Linear, nn.Embedding) or kind.__name__.endswith("RMSNorm")
    return known or next(part.parameters(), None) is None
