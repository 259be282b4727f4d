"""What came of a simulated run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUSY = 0.85
"""A share of the time from which on somebody counts as always at work."""

LOST = 0.2
"""A share of the time from which on what is no work counts as the reason."""


@dataclass(frozen=True)
class SimulatedRun:
    """Rates and shares after the first steps, in which samplers run ahead; failures and ages over the whole run."""

    workers: int
    samplers: int
    """0: the learner samples."""
    ranks: int
    staleness: int
    steps: int
    """Updates that were looked at."""
    seconds_a_step: float
    tokens_per_s: float
    """Response tokens that were learnt from."""
    learner: Mapping[str, float]
    """Shares of the time: updating, waiting, down."""
    sampler: Mapping[str, float]
    """Of all samplers together: writing, prompts, loading, idle, down."""
    rows: float
    """Attempts in hand of a sampler that writes, on average."""
    ages: Mapping[int, int]
    """How many problems were learnt from by how old their oldest weights were, in updates."""
    sampler_failures: int
    learner_failures: int
    steps_lost: int
    """Updates that were made again."""
    learnt: tuple[int, ...]
    """Problems by number, in the order in which they were learnt from."""
    times: tuple[float, ...]
    """When each update was done, for the last time, in seconds."""

    @property
    def mean_age(self) -> float:
        return sum(age * num for age, num in self.ages.items()) / max(sum(self.ages.values()), 1)

    @property
    def limit(self) -> str:
        """What takes most of the time, in words."""
        learner, sampler = self.learner, self.sampler
        writing = sampler["writing"] + sampler["prompts"]
        if max(learner["updating"], writing) >= BUSY:
            return "the learner" if learner["updating"] >= writing else "the samplers"
        if learner["down"] + sampler["down"] > LOST:
            return "failures"
        if self.staleness == 0:
            turn = "learning" if learner["updating"] > 0.5 else "sampling"
            return f"taking turns, most of it {turn}"
        if sampler["loading"] > LOST:
            return "handing over weights"
        return "the longest attempts"

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workers": self.workers,
            "samplers": self.samplers,
            "ranks": self.ranks,
            "staleness": self.staleness,
            "steps": self.steps,
            "seconds_a_step": self.seconds_a_step,
            "tokens_per_s": self.tokens_per_s,
            "learner": dict(self.learner),
            "sampler": dict(self.sampler),
            "rows": self.rows,
            "ages": {str(age): num for age, num in sorted(self.ages.items())},
            "mean_age": self.mean_age,
            "failures": {"samplers": self.sampler_failures, "learner": self.learner_failures},
            "steps_lost": self.steps_lost,
            "limit": self.limit,
        }
