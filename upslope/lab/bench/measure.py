"""Some steps of the loop, timed: ``upslope.training.loop`` itself, on work of an exact size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from upslope.algo.outcome import Outcome
from upslope.algo.recipe import Recipe
from upslope.lab.bench.clock import Clock
from upslope.lab.bench.clocked import ClockedLearner, ClockedSampler, ClockedTask
from upslope.learn.learner import Learner
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.base import Sampler
from upslope.tasks.base import Task
from upslope.training.collect import Collected
from upslope.training.loop import train
from upslope.training.run import Run
from upslope.training.settings import RunSettings
from upslope.training.view import NullView
from upslope.types import Batch, Problem

PHASES = ("sample", "score", "prepare", "gradient", "optimizer", "publish", "other")
"""``publish`` rounds the masters into the weights that compute and hands these to the sampler; ``other`` is what is
left, and in a recipe with curvature everything that measures before it moves."""
OF_THE_LOOP = ("sample", "prepare")
"""Phases of the loop that are named as they are here; of an update, the learner names the parts."""


@dataclass(frozen=True)
class Timed:
    """One step's seconds and tokens."""

    seconds: float
    by_phase: dict[str, float]
    """Every one of PHASES; they add up to ``seconds``."""
    response_tokens: int
    """Sampled, and learnt from: N x L."""
    learnt_tokens: int
    """The tokens of every distinct prompt once, and all response tokens; for each pass over the batch again."""
    passes: int
    """Over the batch (``recipe.reuse.epochs``)."""

    @property
    def learning(self) -> float:
        """Seconds from scored attempts to their gradient, or (``other``) to whatever else moves the weights."""
        return sum(self.by_phase[phase] for phase in ("prepare", "gradient", "other"))


class MeasuredRun(Run):
    """A run of ``num_steps`` steps that times each and does nothing beside them: no evaluation, no record, no
    checkpoint. ``settings`` make every attempt exactly L tokens long."""

    def __init__(
        self,
        settings: RunSettings,
        recipe: Recipe,
        task: Task,
        problems: Sequence[Problem],
        sampler: Sampler,
        learner: Learner,
        num_steps: int,
        say: Callable[[int], None],
    ) -> None:
        """``say`` is told the number of every step before it begins."""
        clock = Clock(learner.policy.device)
        super().__init__(
            replace(
                settings,
                problems=len(problems),
                eval=replace(settings.eval, problems=0),
                learn=replace(settings.learn, measure_every=0),
            ),
            MemoryRecorder(),
            recipe,
            ClockedTask(task, problems, clock),
            ClockedSampler(sampler, clock),
            ClockedLearner(learner, clock),
            NullView(),
            {},
        )
        self._clock, self._num_steps, self._say = clock, num_steps, say
        self._collected = Collected([], [])
        self.timed: list[Timed] = []

    def steps(self) -> Iterator[int]:
        for step in range(self._num_steps):
            self._say(step)
            self.collect.overlaps = False  # what is done at the same time cannot be told apart
            self._clock.take()
            start = time.perf_counter()
            with self._clock.phase("other"):
                yield step
            self.timed.append(self._one_step(time.perf_counter() - start))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        with self._clock.phase(name if name in OF_THE_LOOP else "other"), super().phase(name):
            yield

    def record(self, step: int, collected: Collected, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        self._collected = collected

    def _one_step(self, seconds: float) -> Timed:
        by_phase = dict.fromkeys(PHASES, 0.0) | self._clock.take()
        by_phase["other"] += seconds - sum(by_phase.values())
        rollouts = [r for group in self._collected.attempted for r in group.rollouts]
        response_tokens = sum(len(r.response) for r in rollouts)
        prompt_tokens = sum(map(len, {r.prompt for r in rollouts}))
        epochs = self.recipe.reuse.epochs
        return Timed(seconds, by_phase, response_tokens, epochs * (prompt_tokens + response_tokens), epochs)


def timed_steps(run: MeasuredRun) -> list[Timed]:
    """Let the loop run; the first step warms up and is left out."""
    train(run)
    return run.timed[1:]
