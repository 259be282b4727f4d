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
ACTIVATION_BUDGET = 400 * 2**20
"""Most bytes that the activations of one micro-batch take, likewise, by an estimate (``ACTIVATIONS``)."""
ACTIVATIONS = 10
"""Numbers kept of a token for each of layers x hidden size: what SmolLM2's layer keeps (the stream twice, attention's
output, q, k and v, gate and up), and about what others do."""
ACTIVATIONS_OF_LAYERS = {"ours": 16, "transformers": 40}
"""The same, of a model with wide feed-forward layers (5.4 x hidden size), for a device's memory, which is filled: 15.4
where a fast trunk computes; where transformers' layers do, 37.2, since torch keeps what every step of them was given.
"""


@dataclass(frozen=True)
class LearnSettings:
    """The optimizer with warm-up, decay and clipping (``update=kl_ball`` measures its own steps and uses none of these
    for the policy), precision, adapter."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """What moves the weights. muon: the matrices inside the layers by Muon (Jordan et al. 2024),
    whose step is scaled to the size of AdamW's (arXiv 2502.16982), so that one lr serves both; all else (embeddings,
    head, norms, biases, a critic's head) by AdamW. Not for adapters, whose factors are no matrices of the model."""
    lr: float | None = at_least(0, None)
    """Peak learning rate; None: 3e-4 for a new model and below ten million trainable parameters, else
    1e-5."""
    warmup: int = at_least(0, 10)
    """Updates of linear warm-up."""
    decay: Literal["constant", "linear", "cosine", "wsd"] = "constant"
    """What follows the warm-up: linear and cosine fall so that an update after the last would have a rate of zero; wsd
    stays until the last ``decay_share`` of the updates, and falls linearly in these. All count the updates of ``steps``
    (or ``epochs``): a run that ``minutes`` or ``tokens`` end earlier ends higher up, with wsd at the full rate."""
    decay_share: float = at_least(0, 0.2)
    """The share of all updates in which the rate of wsd falls."""
    beta1: float = at_least(0, 0.9)
    """Decay of AdamW's mean gradient."""
    beta2: float = at_least(0, 0.99)
    """Decay of AdamW's mean squared gradient; runs of a few hundred updates cannot wait for 0.999."""
    momentum: float = at_least(0, 0.95)
    """Decay of Muon's mean gradient."""
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
    activations_share: float = at_least(0, 0.5)
    """On a GPU, what the activations of one micro-batch may take of the memory that is free beside weights, gradients
    and moments; 0: 400 MiB, as on a CPU. Running out of memory halves it for the rest of the run."""
    logits_share: float = at_least(0, 0.1)
    """Likewise for the logits that are held at once; 0: 16 Mi of them, as on a CPU."""
    moments: Literal["full", "8bit"] = "full"
    """How AdamW keeps its two moments. full: in float32, 8 bytes a weight. 8bit: in codes of one byte, with a scale for
    every 256 (arXiv 2110.02861), by torchao, which has to be installed."""
    offload: bool = False
    """Keep master weights, their gradients and the moments in the host's memory (16 bytes a weight), where the
    optimizer then works; on the device are only the weights that compute. On a CPU they are there in any case."""
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
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a decay in [0, 1), not {getattr(self, name)}")
        for name in ("activations_share", "logits_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a share of free memory, in [0, 1], not {getattr(self, name):g}")
        if self.decay_share > 1:
            raise ValueError(f"decay_share is a share of all updates, in [0, 1], not {self.decay_share}")
        if self.optimizer != "muon" and self.momentum != LearnSettings.momentum:
            raise ValueError(
                f"momentum = {self.momentum:g} is Muon's, and optimizer = {self.optimizer!r}; set optimizer = 'muon', "
                "or leave it out (AdamW has beta1)"
            )
        if self.decay != "wsd" and self.decay_share != LearnSettings.decay_share:
            raise ValueError(
                f"decay_share = {self.decay_share:g} is of decay = 'wsd', and decay = {self.decay!r}; set decay = "
                "'wsd', or leave it out"
            )
        if self.optimizer == "muon" and self.lora_rank:
            raise ValueError(
                f"optimizer = 'muon' turns whole matrices, and lora_rank = {self.lora_rank} trains factors of them; "
                "set optimizer = 'adamw', or lora_rank = 0"
            )
        if self.moments == "8bit" and self.optimizer != "adamw":
            raise ValueError(
                f"moments = '8bit' are AdamW's, and optimizer = {self.optimizer!r}; set optimizer = 'adamw', or "
                "moments = 'full'"
            )
        if self.moments == "8bit" and self.dtype == "float64":
            raise ValueError("moments = '8bit' beside dtype = 'float64' would throw away what it is for; set 'full'")
        if self.lr is not None and not math.isfinite(self.lr):
            raise ValueError(f"lr must be a finite number, not {self.lr}")
