"""How to learn: optimizer, precision, micro-batches, adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from upslope.bounds import at_least, require_bounds

LOGITS_BUDGET = 16 * 2**20
"""Logits held at once in one micro-batch (entries) where whole distributions are compared, when the micro-batch size is
left to us."""
TOKEN_BUDGET = 16 * 2**10
"""Most tokens in one micro-batch, likewise."""
ACTIVATION_BUDGET = 20 * 2**20
"""Most tokens x layers x hidden size in one micro-batch, likewise: activations take several dozen bytes for each."""


@dataclass(frozen=True)
class LearnSettings:
    """The optimizer: AdamW with warm-up, decay and clipping (``update=kl_ball`` measures its own steps and uses none of
    these for the policy), precision, adapter."""

    lr: float | None = at_least(0, None)
    """Peak learning rate; None: 3e-4 below ten million trainable parameters, else 1e-5."""
    warmup: int = at_least(0, 10)
    """Updates of linear warm-up."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up: linear and cosine fall so that an update after the last would have a rate of zero. A
    run that ends early (``minutes``) ends higher up."""
    beta1: float = at_least(0, 0.9)
    """Decay of AdamW's mean gradient."""
    beta2: float = at_least(0, 0.99)
    """Decay of AdamW's mean squared gradient; runs of a few hundred updates cannot wait for 0.999."""
    eps: float = at_least(0, 1e-8)
    """Added to the root of the mean squared gradient."""
    weight_decay: float = at_least(0, 0.0)
    """Every weight shrinks by lr times this at every update."""
    clip: float = at_least(0, 1.0)
    """Largest gradient norm; a larger gradient is scaled down to it. 0: no clipping."""
    micro_batch: int = at_least(0, 0)
    """Rollouts in one forward pass; 0: as many as a token budget allows. A matter of memory, never of result."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """What forward and backward compute in; master weights and optimizer are at least float32. auto: bfloat16 where
    the machine multiplies it faster and the model is wide enough to gain (float32 where the recipe needs curvature,
    as trpo does)."""
    checkpoint_activations: bool = False
    """Keep only each layer's input and compute the rest again in the backward pass; less memory for about a third
    more time."""
    lora_rank: int = at_least(0, 0)
    """Train a LoRA adapter of this rank beside the frozen weights (needs peft); 0: train all weights."""
    lora_alpha: float = at_least(0, 32.0)
    """The adapter's output is scaled by lora_alpha / lora_rank."""
    lora_targets: str = "all-linear"
    """Which layers get an adapter: names separated by commas, or all-linear."""
    measure_every: int = at_least(0, 10)
    """Steps between measurements that cost extra passes: the gradient's norm split into what is pushed up and down, and
    how far the step moved the policy (kl_step). 0: never."""

    def __post_init__(self) -> None:
        require_bounds(self)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a decay in [0, 1), not {getattr(self, name)}")
        if self.lr is not None and not math.isfinite(self.lr):
            raise ValueError(f"lr must be a finite number, not {self.lr}")
