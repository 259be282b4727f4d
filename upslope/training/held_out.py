"""A run's evaluations: which are due, and that each is made once, also over a stop in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from upslope.model.renderer import Renderer
from upslope.record.journal import num_samples
from upslope.rollout.base import Progress, Sampler
from upslope.tasks.base import Task
from upslope.training.evaluate import Evaluation, evaluate
from upslope.training.settings import RunSettings


class HeldOut:
    """The held-out problems that a run is evaluated on, and how far that is done."""

    def __init__(self, settings: RunSettings, task: Task, sampler: Sampler, renderer: Renderer) -> None:
        self._setting, self._seed = settings.eval, settings.seed
        self._task, self._sampler, self._renderer = task, sampler, renderer
        num = self._setting.problems
        self.problems = list(task.problems("test"))[:num] if num else []
        """Those that are attempted."""
        self._done: set[tuple[int, int]] = set()  # (step, samples)
        self._sampling = replace(settings.sample.sampling(), temperature=self._setting.temperature, top_k=0, top_p=1.0)

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Those of these rows of the journal are done, and no others."""
        evals = [row for row in rows if row["kind"] == "eval"]
        self._done = {(row["step"], num_samples(row)) for row in evals}

    def is_between(self, step: int) -> bool:
        """Whether one is made before this step, in the middle of a run."""
        return bool(self._setting.every and step and step % self._setting.every == 0)

    def wants(self, step: int, samples: int) -> bool:
        """Whether there is something to evaluate, and this was not done yet."""
        return bool(self.problems) and (step, samples) not in self._done

    def attempt(self, step: int, samples: int, progress: Progress) -> Evaluation:
        """All problems, greedily and ``samples`` times, as the policy is after ``step`` steps."""
        self._done.add((step, samples))
        return evaluate(
            self._task,
            self._sampler,
            self._renderer,
            self.problems,
            self._sampling,
            samples=samples,
            seed=self._seed,
            progress=progress,
            by=self._setting.by,
        )
