"""What a model that is made from nothing can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from upslope.bounds import at_least, require_bounds


@dataclass(frozen=True)
class NewModelSettings:
    """A model with random weights, ``model = "new:llama"`` or ``"new:DIR"``; what is left out follows from the rest
    (docs/new-models.md has the rule)."""

    tokenizer: str = ""
    """A directory, a hub id, or ``pocket``; empty: the one that lies beside the config. The vocabulary
    and the special tokens are the tokenizer's."""
    depth: int | None = at_least(1, None)
    """new:llama: one number for the whole shape: so many layers, 64 times as wide."""
    layers: int | None = at_least(1, None)
    """new:llama: layers, where ``depth`` does not say."""
    width: int | None = at_least(1, None)
    """new:llama: hidden size, where ``depth`` does not say."""
    heads: int | None = at_least(1, None)
    """new:llama: heads of attention; None: one for every 64 of the width."""
    kv_heads: int | None = at_least(1, None)
    """new:llama: heads of keys and values, which groups of heads share; None: as many as ``heads``."""
    ffn: int | None = at_least(1, None)
    """new:llama: width inside the feed-forward layers; None: 8/3 of the width, rounded up to a multiple of 64."""
    tied: bool | None = None
    """new:llama: whether one matrix is embedding and output head; None: true."""
    positions: int | None = at_least(1, None)
    """new:llama: the longest text, in tokens; None: 2048."""
    init_std: float | None = None
    """new:llama: standard deviation of the initial weights; None: sqrt(2 / (5 width)), which is GPT-2's 0.02 at a
    width of 1000. Projections back into the residual stream have it divided by sqrt(2 layers)."""

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.init_std is not None and not (self.init_std > 0 and math.isfinite(self.init_std)):
            raise ValueError(f"init_std = {self.init_std:g} must be a finite number above 0")
