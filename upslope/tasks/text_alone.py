"""The task of a run that reads text and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from upslope.errors import UserError
from upslope.tasks.base import Split, Task
from upslope.types import Problem, Score

NO_PROBLEMS = (
    "text alone (task.text) has no problems to attempt and nothing to score: train on it with --recipe pretrain, or "
    "give a task as well (--task, or --data and --reward)"
)


class TextAlone(Task):
    """A task without problems: what is read is the run's text, which is opened where the tokenizer is.

    >>> TextAlone().documents(), TextAlone().demonstrations()
    ((), ())
    """

    name = "text"
    reads_answers = False
    has_reward = False

    def problems(self, split: Split) -> Sequence[Problem]:
        """Raises UserError: there are none."""
        raise UserError(NO_PROBLEMS)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Raises UserError: there is nothing to score."""
        raise UserError(NO_PROBLEMS)
