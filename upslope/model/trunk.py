"""The two halves of a causal language model: the trunk, and the head that makes logits of its last hidden states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from upslope.model.adapter import has_adapter


def trunk_of(model: Any) -> Any:
    """Everything below the head, with its adapter if there is one."""
    return (model.get_base_model() if has_adapter(model) else model).base_model


def head_stands_apart(model: Any, run: Callable[[Any], Any]) -> bool:
    """Whether the model's logits are exactly what its head module makes of the trunk's last hidden states; measured by
    ``run``, which calls the model, or its trunk alone, on some tokens and returns the output. Not so where logits are
    scaled or capped after the head (Granite, Cohere, Gemma 2) or hidden states are changed before it.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        return False
    seen: list[tuple[Any, Tensor]] = []
    hook = head.register_forward_hook(lambda _, args, out: seen.append((args[0] if args else None, out)))
    try:
        with torch.no_grad():
            logits = run(model).logits
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0][0] is None:
        return False
    if not torch.equal(seen[0][1].cpu().double(), logits.cpu().double()):  # MPS has no float64
        return False
    try:
        with torch.no_grad():
            hidden = run(trunk_of(model)).last_hidden_state
    except Exception:  # whatever an architecture does that its trunk cannot be called alone
        return False
    (before, _), tolerance = seen[0], 1e-5 if hidden.dtype in (torch.float32, torch.float64) else 1e-2
    return before.shape == hidden.shape and bool((before - hidden).abs().max() <= tolerance * hidden.abs().max())
