"""Who else works on a run besides the process that began it: nobody, or what ``upslope.cluster`` starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.learn.build import build_learner
from upslope.learn.learner import Learner
from upslope.model.policy import Policy
from upslope.rollout.base import Sampler
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.run import Run
from upslope.training.settings import RunSettings

MakeSampler = Callable[[Policy], Sampler]
BuildLearner = Callable[..., Learner]
"""As ``build_learner``."""


class Company(Protocol):
    """The other processes of a run, asked in the order in which its methods stand here."""

    build: BuildLearner
    """What makes this process's learner, one of several perhaps; once ``begin`` was called."""

    def begin(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Recipe,
        settings: RunSettings,
        say: Callable[[str], None],
        folder: Path | None,
    ) -> None:
        """Start them with the model as it was loaded. ``say`` tells whoever watches;
        ``folder`` is the run's. Raises UserError."""
        ...

    def task(self, task: Task) -> Task:
        """The task as the run asks it: scored elsewhere, perhaps."""
        ...

    def sampler(self, learner: Learner) -> Sampler:
        """Whoever writes the attempts."""
        ...

    def join(self, run: Run) -> None:
        """The run stands where it goes on from: now the others do as well, and follow it."""
        ...

    def cause(self, error: BaseException) -> UserError | None:
        """What one of the others did to end the run with ``error``; None: it was none of them."""
        ...


Companies = Callable[[ClusterSettings], AbstractContextManager[Company | None]]
"""The company of a run with these settings, as long as it lasts."""


class Nobody:
    """One process; ``make_sampler`` makes whoever writes the attempts, None: it does."""

    def __init__(self, make_sampler: MakeSampler | None = None) -> None:
        self.build: BuildLearner = build_learner
        self._make_sampler = make_sampler

    def begin(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Recipe,
        settings: RunSettings,
        say: Callable[[str], None],
        folder: Path | None,
    ) -> None:
        self._run, self._say, self._folder = settings, say, folder

    def task(self, task: Task) -> Task:
        return task

    def sampler(self, learner: Learner) -> Sampler:
        if self._make_sampler is not None:
            return self._make_sampler(learner.policy)
        return LocalSampler(learner.policy, max_rows=self._run.sample.max_rows)

    def join(self, run: Run) -> None:
        pass

    def cause(self, error: BaseException) -> UserError | None:
        return None
