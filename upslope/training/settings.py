"""Everything a run can be told, as typed dataclasses with the defaults of the main job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from upslope.bounds import at_least, require_bounds
from upslope.errors import nearest
from upslope.learn.settings import LearnSettings
from upslope.model.settings import NewModelSettings
from upslope.record.trackers.known import TRACKER_NAMES
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.task_settings import TaskSettings
from upslope.types import Sampling

DEFAULT_RECIPE = "reinforce-baseline"
MOST_THREADS = 1024
"""Of a process, so that a slip of the finger cannot take a machine down."""
MOST_STEPS = 1_000_000_000
"""Of a run: at one a millisecond, twelve days."""
MOST_TOP = 100
"""Alternatives of a token that are written down."""
MOST_ATTEMPTS = 10_000_000
"""In one turn, or one evaluation: their requests alone would fill the memory."""


@dataclass(frozen=True)
class SampleSettings:
    """How attempts are drawn in training; see ``Sampling`` for what each means."""

    temperature: float = at_least(0, 1.0)
    top_k: int = 0
    top_p: float = 1.0
    min_tokens: int = 0
    max_tokens: int | None = None
    """Where an attempt is cut, in training and evaluation; None: what the task suggests (pocket: 32), else
    256."""
    stop: tuple[str, ...] = ()
    """Texts that end an attempt, in training and evaluation, as ``["</answer>"]``; its text is cut behind the first."""
    order: Literal["shuffled", "file"] = "shuffled"
    """In which order problems (demonstrations, documents) are taken: anew in every pass, or always as they stand in the
    data, each step going on where the last one ended."""
    max_rows: int = 0
    """Attempts held in memory at once, the others wait for a place; 0: as many as 2 GiB of keys and values allow (on a
    GPU ``cache_share``), at most 512 (on a GPU 2048). A matter of memory, never of result."""
    cache_share: float = at_least(0, 0.7)
    """On a GPU, what keys and values may take of the memory that is free when sampling begins, where ``max_rows`` is 0;
    0: 2 GiB, as on a CPU. Running out of memory halves the attempts at once for the rest of the run."""

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.cache_share > 1:
            raise ValueError(f"cache_share is a share of free memory, in [0, 1], not {self.cache_share:g}")
        if self.max_rows < 0:
            raise ValueError(f"max_rows must be at least 0, not {self.max_rows}")
        self.sampling()

    def sampling(self) -> Sampling:
        """The distribution; raises ValueError if there is none such."""
        limit = 256 if self.max_tokens is None else self.max_tokens
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_tokens, limit, self.stop)


@dataclass(frozen=True)
class ReferenceSettings:
    """What a recipe refers to: the frozen policy of a penalty, or the teacher of a distillation."""

    model: str = ""
    """A Hugging Face directory or hub id, or a run folder, with the policy's vocabulary; empty: the run's start."""
    every: int = at_least(0, 0)
    """Steps after which the policy as it is then becomes the reference (ProRL, arXiv 2505.24864); 0:
    never."""

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.model and self.every:
            raise ValueError("model names a reference that stays, and every replaces it; set one of the two")


@dataclass(frozen=True)
class EvalSettings:
    """How held-out accuracy and loss are measured before, during and after training."""

    every: int = at_least(0, 0)
    """Steps between evaluations; 0: only before and after."""
    problems: int = at_least(0, 512)
    """How many held-out problems, at most as many as there are; 0: no evaluation. Of more, so many that lie spread over
    all of them, the same in every run."""
    samples: int = at_least(0, 0)
    """Attempts a problem for pass@k before and after training; 0: greedy only."""
    temperature: float = at_least(0, 1.0)
    """Of those attempts."""
    text_tokens: int = at_least(0, 65_536)
    """Tokens of held-out text that are predicted, in whole documents and one document at least; 0: none."""
    by: str = ""
    """A column of the problems; greedy accuracy is then also told for each of its values."""
    patience: int = at_least(0, 0)
    """End after so many evaluations in a row without a better one (accuracy, as ``save.best`` counts); 0: never."""

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass(frozen=True)
class SaveSettings:
    """Checkpoints and the record of attempts."""

    every: int = at_least(0, 50)
    """Steps between checkpoints; one is always written at the end. 0: only there."""
    keep: int = at_least(1, 2)
    """Newest checkpoints kept."""
    best: bool = False
    """Also keep the checkpoint that did best on held-out problems (greedy accuracy; mean reward where nothing says what
    is right; the least held-out loss where nothing is attempted), of those after at least one step: one is written at
    every evaluation that is better than all before. ``RUN@best`` names it wherever a model is asked for."""
    rollouts: int = at_least(0, 1)
    """Steps between rollout files; 0: none."""
    top_logps: int = at_least(0, 0)
    """How many of the likeliest tokens at every place are written into them with their log-probabilities, for attempts
    that are learnt from; costs a pass of the model's head and 8 bytes each. 0: none."""

    def __post_init__(self) -> None:
        require_bounds(self)
        if self.top_logps > MOST_TOP:
            raise ValueError(f"top_logps = {self.top_logps} must be at most {MOST_TOP}")
        if self.top_logps and not self.rollouts:
            raise ValueError("top_logps is given, and rollouts = 0 writes no attempts; set rollouts as well")


@dataclass(frozen=True)
class RunSettings:
    """One run. ``recipe`` is a name and a patch of slots (see ``upslope recipes``)."""

    name: str = ""
    """The run's folder under ``out``; empty: TASK-RECIPE-SEED, numbered if taken."""
    out: str = "runs"
    """Where run folders go."""
    seed: int = 0
    """Every random draw is a function of it: weights of a new model and of the pocket model, its problems, their
    order, every token."""
    model: str = "pocket"
    """A Hugging Face directory or hub id, a run folder, pocket[:blank|:pretrained|:sft], or a new one with random
    weights: new:llama, new:DIR or new:FILE.json (a transformers config)."""
    steps: int = at_least(0, 150)
    """Turns of the loop: each collects attempts (or demonstrations) anew."""
    epochs: float = at_least(0, 0.0)
    """The run's length in passes over the training problems (demonstrations, documents, tokens of the text) instead,
    which becomes ``steps`` when the run begins; give one of the two. 0: as ``steps`` says."""
    minutes: float = at_least(0, 0.0)
    """End after this much time in training steps even if ``steps`` are not done; 0: no limit."""
    tokens: int = at_least(0, 0)
    """End after so many generated (or imitated) tokens even if ``steps`` are not done; 0: no limit."""
    problems: int = at_least(1, 64)
    """P: problems (or demonstrations, documents) a step."""
    threads: int = at_least(0, 0)
    """CPU threads; 0: torch's choice."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    deterministic: bool = True
    """On a CPU, add sums in one order while the run lasts, so that it repeats bit for bit; it costs nothing measurable.
    On a GPU some operations have no such order, and this changes nothing."""
    track: tuple[str, ...] = ()
    """Trackers that the run is sent to while it lasts: trackio, tensorboard, wandb (docs/trackers.md)."""
    recipe: dict[str, Any] = field(default_factory=lambda: {"name": DEFAULT_RECIPE})
    """A recipe's ``name``, and a table for every slot to be patched."""
    new: NewModelSettings = NewModelSettings()
    task: TaskSettings = TaskSettings()
    sample: SampleSettings = SampleSettings()
    learn: LearnSettings = LearnSettings()
    reference: ReferenceSettings = ReferenceSettings()
    eval: EvalSettings = EvalSettings()
    save: SaveSettings = SaveSettings()
    cluster: ClusterSettings = ClusterSettings()

    def __post_init__(self) -> None:
        require_bounds(self)
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed must have 64 bits at most, and {self.seed!s:.20} has more")
        for key in ("steps", "epochs"):
            if getattr(self, key) > MOST_STEPS:
                raise ValueError(f"{key} must be at most {MOST_STEPS:,}, not {getattr(self, key):.3g}")
        for name in self.track:
            if name not in TRACKER_NAMES:
                raise ValueError(f"track names {name!r}, which is no tracker{nearest(name, TRACKER_NAMES)}")
        if len(set(self.track)) < len(self.track):
            raise ValueError(f"track names a tracker twice: {', '.join(self.track)}; once is enough")
        if self.threads > MOST_THREADS:
            raise ValueError(f"threads must be at most {MOST_THREADS}, not {self.threads}; 0 leaves it to torch")
