"""A task whose attempts are scored in other processes, each within its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from upslope.errors import UserError
from upslope.tasks.around import AroundTask
from upslope.tasks.base import Task
from upslope.tasks.workers import Lost, Workers
from upslope.types import Problem, Score

OnTimeout = Literal["stop", "mask"]


class Elsewhere(AroundTask):
    """``task.reward_workers`` and ``task.reward_timeout``. All but ``score`` stays in this process."""

    def __init__(self, task: Task, spec: Mapping[str, Any], num: int, seconds: float, on_timeout: OnTimeout) -> None:
        """``spec`` opens the task once more (``open_task``); it is opened by each of ``num`` processes."""
        super().__init__(task)
        self._workers = Workers("upslope.tasks.registry:open_task", spec, num, seconds)
        self._seconds, self._on_timeout = seconds, on_timeout

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Raises UserError as the task does, for a process that ended, and, unless such attempts are to be masked, for
        one that takes longer than it may."""
        if not responses:  # nothing to ask anybody, and whether there is a reward is said all the same
            return super().score(problems, responses)
        return self._workers.score(problems, responses, self._lost)

    def _lost(self, attempt: Lost) -> Score:
        if attempt.ending:
            raise UserError(f"{attempt.what} ended its process ({attempt.ending})")
        if self._on_timeout == "stop":
            raise UserError(
                f"{attempt.what} took longer than task.reward_timeout = {self._seconds:g} s; raise it, mend what takes "
                "so long, or leave such attempts out with task.on_timeout=mask"
            )
        return Score(0.0, timed_out=True)
