"""How much arithmetic a token takes, counted from the weights."""

from __future__ import annotations

from torch import nn

from upslope.model.products import num_in_products

BACKWARD = 2
"""The backward pass has two products, by inputs and by weights, for every one of the forward pass."""


def forward_flop(model: nn.Module) -> int:
    """FLOP a token of one forward pass: a multiplication and an addition for every weight used in a product.

    The head counts once, tied or not; embeddings are looked up and count nothing. Attention's own products, norms and
    activations are left out (below 128 positions of a 135M model some 3 %), so a share of the ceiling made of this is
    a little low, never high. Weights kept for many experts are all counted, though a token meets few of them.
    """
    return 2 * num_in_products(model)


def learning_flop(model: nn.Module) -> int:
    """FLOP a token of one forward and one backward pass."""
    return (1 + BACKWARD) * forward_flop(model)
