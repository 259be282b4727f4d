"""What the loop asks of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from upslope.algo.outcome import Outcome
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Sample
from upslope.learn.learner import Learner
from upslope.rollout.base import Progress
from upslope.training.collect import Collected
from upslope.types import Batch


class Turns(Protocol):
    """``Run`` where the run began; a ``Following`` in every further learner's process."""

    recipe: Recipe
    seed: int
    learner: Learner
    sampler: Any
    """Whoever writes the attempts; told of new weights."""

    @property
    def collect(self) -> Callable[[Sample, int, Progress], Collected]: ...

    def steps(self) -> Iterator[int]: ...

    def phase(self, name: str) -> AbstractContextManager[None]: ...

    def sampled(self, num_tokens: int, num_rows: int) -> None: ...

    def measured(self, step: int, batch: Batch) -> AbstractContextManager[None]: ...

    def record(self, step: int, collected: Collected, batch: Batch, outcomes: Sequence[Outcome]) -> Any: ...
