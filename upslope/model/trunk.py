"""The two halves of a causal language model: the trunk, and the head that makes logits of its last hidden states."""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from upslope.errors import UserError
from upslope.model.adapter import has_adapter


def trunk_of(model: Any) -> Any:
    """Everything below the head, with its adapter if there is one."""
    return (model.get_base_model() if has_adapter(model) else model).base_model


def head_stands_apart(model: Any, call: dict[str, Any]) -> bool:
    """Whether the model's logits are exactly what its head module makes of the trunk's last hidden states; measured on
    ``call``. Not so where logits are scaled or capped after the head (Granite, Cohere, Gemma 2) or hidden states are
    changed before it."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        return False
    seen: list[tuple[Any, Tensor]] = []
    hook = head.register_forward_hook(lambda _, args, out: seen.append((args[0] if args else None, out)))
    try:
        with torch.no_grad():
            logits = model(**call).logits
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][0] is None or not torch.equal(seen[0][1].double(), logits.double()):
        return False
    try:
        with torch.no_grad():
            hidden = trunk_of(model)(**call).last_hidden_state
    except Exception:  # whatever an architecture does that its trunk cannot be called alone
        return False
    (before, _), tolerance = seen[0], 1e-5 if hidden.dtype in (torch.float32, torch.float64) else 1e-2
    return before.shape == hidden.shape and bool((before - hidden).abs().max() <= tolerance * hidden.abs().max())


def recompute_layers(model: Any) -> None:
    """Let every layer keep only its input during a pass with gradient and compute the rest again in the backward pass.

    transformers' own switch works in training mode only, and training mode would bring dropout back, so each layer's
    forward function is wrapped here instead. Raises UserError if the model does not mark its layers.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"learn.checkpoint_activations: {type(model).__name__} has no layers that can be computed again in the "
            "backward pass; leave it off, and lower learn.micro_batch to save memory"
        )
    for layer in layers:
        layer.forward = MethodType(_recomputed, layer)


def _recomputed(layer: Any, *args: Any, **kwargs: Any) -> Any:
    plain = partial(type(layer).forward, layer, **kwargs)
    if not torch.is_grad_enabled():
        return plain(*args)
    return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False)
