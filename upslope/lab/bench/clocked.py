"""The loop's own parts with a clock beside them: a task, a sampler and a learner that say when they work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from upslope.algo.outcome import Outcome, Stats
from upslope.algo.protocols import Loss
from upslope.lab.around import AroundSampler
from upslope.lab.bench.clock import Clock
from upslope.learn.learner import Learner
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, Sampler
from upslope.tasks.base import Split, Task
from upslope.tasks.episode import Episode
from upslope.types import Batch, Problem, Rollout, Sampling, Score


class ClockedTask(Task):
    """A task on the problems given, whose own scoring is done and timed. What it says is then replaced by rewards that
    differ within every group, so that no baseline and no filter spares the learner any of the work."""

    def __init__(self, inner: Task, problems: Sequence[Problem], clock: Clock) -> None:
        self.name, self._inner, self._problems, self._clock = inner.name, inner, problems, clock

    def problems(self, split: Split) -> Sequence[Problem]:
        """The same on both sides: nobody is evaluated."""
        return self._problems

    def episode(self, problem: Problem) -> Episode | None:
        return self._inner.episode(problem)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """A problem's responses in the order of their samples: whole groups share a call."""
        with self._clock.phase("score"):
            self._inner.score(problems, responses)
        seen: Counter[str] = Counter()
        found = []
        for problem in problems:
            found.append(Score(uneven(seen[problem.id])))
            seen[problem.id] += 1
        return found


def uneven(sample: int) -> float:
    """A reward that no two samples of a group share: 1/4, 1 more for every other sample, and hundredths.

    >>> [uneven(sample) for sample in range(4)]
    [0.25, 1.26, 0.27, 1.28]
    """
    return 0.25 + sample % 2 + 0.01 * sample


class ClockedSampler(AroundSampler):
    """A sampler whose taking over of weights is timed. Every attempt counts as if it had ended by itself, or a filter
    of cut attempts would leave nothing to learn from."""

    def __init__(self, inner: Sampler, clock: Clock) -> None:
        super().__init__(inner)
        self._clock = clock

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        with self._clock.phase("publish"):
            super().load(weights, version)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
        more: More | None = None,
    ) -> list[Rollout]:
        ended: dict[int, Rollout] = {}

        def told(place: int, rollout: Rollout) -> None:
            ended[place] = replace(rollout, ended="stop")
            if finished is not None:
                finished(place, ended[place])

        self._inner.generate(requests, sampling, address, progress, told)
        return [ended[place] for place in range(len(requests))]


class ClockedLearner(Learner):
    """A learner whose gradients and steps are timed."""

    def __init__(self, inner: Learner, clock: Clock) -> None:
        super().__init__(inner.scorer, inner.optimizer)
        self._clock = clock
        self.optimizer.publishing = lambda: clock.phase("publish")

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        with self._clock.phase("gradient"):
            return super().gradient(objective, minibatch)

    def step(self) -> Stats:
        with self._clock.phase("optimizer"):
            return super().step()

    def settle(self) -> Stats:
        with self._clock.phase("optimizer"):
            return super().settle()

    def weights(self) -> Mapping[str, Tensor]:
        with self._clock.phase("publish"):
            return super().weights()
