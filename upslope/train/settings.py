"""Everything a run can be told, as typed dataclasses with the defaults of the main job."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from upslope.types import Sampling

DEFAULT_RECIPE = "reinforce-baseline"
LOGITS_BUDGET = 16 * 2**20
"""Logits held at once in one micro-batch (entries) where whole distributions are compared, when the micro-batch size is
left to us."""
TOKEN_BUDGET = 16 * 2**10
"""Most tokens in one micro-batch, likewise."""
ACTIVATION_BUDGET = 20 * 2**20
"""Most tokens x layers x hidden size in one micro-batch, likewise: activations take several dozen bytes for each."""


@dataclass(frozen=True)
class TaskSettings:
    """Where problems and rewards come from."""

    name: str = ""
    """gsm8k, pocket or user; empty: user if data is given, else pocket."""
    data: str | None = None
    """A folder with train.jsonl and test.jsonl, one JSONL file, or (gsm8k) nothing for the hub's copy."""
    eval_data: str | None = None
    """A JSONL file of held-out problems for a user task."""
    rewards: tuple[str, ...] = ()
    """Reward functions, FILE.py:FUNCTION each."""
    reward_weights: tuple[float, ...] = ()
    """One weight a reward function; empty: 1 each."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the task itself understands (gsm8k: keep_annotations)."""


@dataclass(frozen=True)
class SampleSettings:
    """How attempts are drawn in training; see ``Sampling`` for what each means."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_tokens: int = 0
    max_tokens: int | None = None
    """Where an attempt is cut, in training and evaluation; None: 32 for pocket, else 256."""
    max_rows: int = 0
    """Attempts held in memory at once, the others wait for a place; 0: as many as 2 GiB of keys and values allow, at
    most 512. A matter of memory, never of result."""

    def __post_init__(self) -> None:
        if self.max_rows < 0:
            raise ValueError(f"max_rows must be at least 0, not {self.max_rows}")
        self.sampling()

    def sampling(self) -> Sampling:
        """The distribution; raises ValueError if there is none such."""
        limit = 256 if self.max_tokens is None else self.max_tokens
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_tokens, limit)


@dataclass(frozen=True)
class LearnSettings:
    """The optimizer: AdamW with warm-up, decay and clipping (``update=kl_ball`` measures its own steps and uses none of
    these for the policy), precision, adapter."""

    lr: float | None = None
    """Peak learning rate; None: 3e-4 below ten million trainable parameters, else 1e-5."""
    warmup: int = 10
    """Updates of linear warm-up."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up: linear and cosine fall so that an update after the last would have a rate of zero. A
    run that ends early (``minutes``) ends higher up."""
    beta1: float = 0.9
    """Decay of AdamW's mean gradient."""
    beta2: float = 0.99
    """Decay of AdamW's mean squared gradient; runs of a few hundred updates cannot wait for 0.999."""
    eps: float = 1e-8
    """Added to the root of the mean squared gradient."""
    weight_decay: float = 0.0
    """Every weight shrinks by lr times this at every update."""
    clip: float = 1.0
    """Largest gradient norm; a larger gradient is scaled down to it. 0: no clipping."""
    micro_batch: int = 0
    """Rollouts in one forward pass; 0: as many as a token budget allows. A matter of memory, never of result."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """What forward and backward compute in; master weights and optimizer are at least float32. auto: bfloat16 where
    the machine multiplies it natively and the model is wide enough to gain (float32 where the recipe needs curvature,
    as trpo does)."""
    checkpoint_activations: bool = False
    """Keep only each layer's input and compute the rest again in the backward pass; less memory for about a third
    more time."""
    lora_rank: int = 0
    """Train a LoRA adapter of this rank beside the frozen weights (needs peft); 0: train all weights."""
    lora_alpha: float = 32.0
    """The adapter's output is scaled by lora_alpha / lora_rank."""
    lora_targets: str = "all-linear"
    """Which layers get an adapter: names separated by commas, or all-linear."""
    measure_every: int = 10
    """Steps between measurements that cost extra passes: the gradient's norm split into what is pushed up and down, and
    how far the step moved the policy (kl_step). 0: never."""

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a decay in [0, 1), not {getattr(self, name)}")
        if self.lr is not None and not math.isfinite(self.lr):
            raise ValueError(f"lr must be a finite number, not {self.lr}")


@dataclass(frozen=True)
class EvalSettings:
    """How held-out accuracy is measured before, during and after training."""

    every: int = 0
    """Steps between evaluations; 0: only before and after."""
    problems: int = 512
    """How many held-out problems, at most as many as there are; 0: no evaluation."""
    samples: int = 0
    """Attempts a problem for pass@k before and after training; 0: greedy only."""
    temperature: float = 1.0
    """Of those attempts."""


@dataclass(frozen=True)
class SaveSettings:
    """Checkpoints and the record of attempts."""

    every: int = 50
    """Steps between checkpoints; one is always written at the end. 0: only there."""
    keep: int = 2
    """Newest checkpoints kept."""
    rollouts: int = 1
    """Steps between rollout files; 0: none."""


@dataclass(frozen=True)
class RunSettings:
    """One run. ``recipe`` is a name and a patch of slots (see ``upslope recipes``)."""

    name: str = ""
    """The run's folder under ``out``; empty: TASK-RECIPE-SEED, numbered if taken."""
    out: str = "runs"
    """Where run folders go."""
    seed: int = 0
    """Every random draw is a function of it: weights of the pocket model, its problems, their order, every token."""
    model: str = "pocket"
    """A Hugging Face directory or hub id, a run folder, or pocket[:blank|:pretrained|:sft]."""
    steps: int = 150
    """Turns of the loop: each collects attempts (or demonstrations) anew."""
    minutes: float = 0.0
    """End after this much time in training steps even if ``steps`` are not done; 0: no limit."""
    tokens: int = 0
    """End after so many generated (or imitated) tokens even if ``steps`` are not done; 0: no limit."""
    problems: int = 64
    """P: problems (or demonstrations, documents) a step."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    recipe: dict[str, Any] = field(default_factory=lambda: {"name": DEFAULT_RECIPE})
    """A recipe's ``name``, and a table for every slot to be patched."""
    task: TaskSettings = TaskSettings()
    sample: SampleSettings = SampleSettings()
    learn: LearnSettings = LearnSettings()
    eval: EvalSettings = EvalSettings()
    save: SaveSettings = SaveSettings()
