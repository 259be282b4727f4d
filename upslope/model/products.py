"""The weights that a token is multiplied with."""

from __future__ import annotations

from torch import nn


def num_in_products(model: nn.Module) -> int:
    """All matrices: the head once, tied or not, and of an embedding, which is looked up, nothing. Weights kept for many
    experts are all counted, though a token meets few of them."""
    products = {
        id(weight): weight.numel()
        for module in model.modules()
        if not isinstance(module, nn.Embedding)  # a tied head is the same tensor, found in the head's own module
        for weight in module.parameters(recurse=False)
        if weight.ndim >= 2
    }
    return sum(products.values())
