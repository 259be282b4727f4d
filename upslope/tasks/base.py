"""What every task offers: problems by split, demonstrations to imitate, a score for any response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from upslope.types import Problem, Score

Split = Literal["train", "test"]


class Task(Protocol):
    """Problems and their reward. Implementations never import torch."""

    name: str

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems to learn from or the held-out ones, in a fixed order. Raises UserError if there are none."""
        ...

    def demonstrations(self) -> Sequence[Problem]:
        """Problems whose ``demonstration`` is not None, for imitation; empty if the task has none."""
        ...

    def documents(self) -> Sequence[str]:
        """Plain text for pretraining; empty if the task has none."""
        ...

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """One score for each response to the problem at the same place. A crashed checker raises, it is never 0.

        Called in the main thread: once a step, or, where that takes long, with one or several whole groups while
        further ones are sampled. Which ones share a call is then a matter of timing, so each response is judged by
        itself."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that problems, demonstrations and documents depend on (cache keys, run.toml)."""
        ...
