"""What is asked of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from upslope.cluster.planning.cards import AssumedShares
from upslope.model.settings import NewModelSettings


@dataclass(frozen=True)
class PlanRequest:
    """A model, clusters and their work. None: derived, or what a measured run had."""

    model: str
    new: NewModelSettings = field(default_factory=NewModelSettings)
    gpus: tuple[int, ...] = (1,)
    staleness: tuple[int, ...] = (0,)
    card: str | None = None
    tflops: float | None = None
    memory_gb: float | None = None
    bandwidth: float | None = None
    shares: AssumedShares = field(default_factory=AssumedShares)
    dtype: str = "bfloat16"
    samplers: int | None = None
    ranks: int | None = None
    shard: bool | None = None
    problems: int | None = None
    group_size: int | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    mean_tokens: float | None = None
    """Of attempts, before long ones are cut; None: a measured run's own lengths, else half of the most."""
    spread: float = 0.8
    """Standard deviation of the logarithm of a length."""
    rows: int = 512
    rewards: int = 0
    reward_seconds: float = 0.0
    steps: int = 12
    hours_between_failures: float = 0.0
    restart_seconds: float = 120.0
    save_every: int = 10
    measured: tuple[Path, ...] = ()
    seed: int = 0
