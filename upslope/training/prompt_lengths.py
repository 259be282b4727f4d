"""``task.min_prompt_tokens`` and ``task.max_prompt_tokens``: problems by the length of their prompt, in tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from upslope.errors import UserError
from upslope.model.renderer import Renderer, prompt_of
from upslope.tasks.around import OtherRows
from upslope.tasks.base import Shares, Split, Task
from upslope.tasks.mixture import shares_of_left
from upslope.training.room import addressed
from upslope.training.task_settings import TaskSettings
from upslope.types import Problem


class PromptLengths(OtherRows):
    """A task with only those problems, on both sides, and demonstrations whose prompt is neither shorter nor longer
    than it may be, as the model reads it."""

    def __init__(self, task: Task, settings: TaskSettings, renderer: Renderer) -> None:
        super().__init__(task)
        self._least, self._most, self._renderer = settings.min_prompt_tokens, settings.max_prompt_tokens, renderer
        self._weighted = bool(settings.weights)
        self._fits: dict[int, tuple[Problem, bool]] = {}  # the problem is kept, so that its number is nobody else's

    def shares(self) -> Shares:
        """Of every data set what is left; without weights, shares are by the size of that."""
        kept = partial(self._kept, what="demonstrations of one of the data sets")
        return shares_of_left(self._inner.shares(), kept, weighted=self._weighted)

    def fingerprint(self) -> str:
        told = f"{super().fingerprint()}\n{self._least} {self._most}"
        return hashlib.sha256(told.encode()).hexdigest()

    def told(self, sides: Sequence[Split] = ("train", "test")) -> str:
        """How many are left, in one line."""
        parts = []
        for split in sides:
            words = "training" if split == "train" else "held-out"
            try:
                there = self._inner.problems(split)
            except UserError:  # a task may have one side only
                continue
            parts.append(f"{sum(map(self._is_kept, there))} of {len(there)} {words} problems")
        return f"by the length of their prompts ({self._spelled}) {' and '.join(parts)} are taken"

    @property
    def _spelled(self) -> str:
        least = f"task.min_prompt_tokens = {self._least}" if self._least else ""
        most = f"task.max_prompt_tokens = {self._most}" if self._most else ""
        return ", ".join(filter(None, (least, most)))

    def _is_kept(self, problem: Problem) -> bool:
        known = self._fits.get(id(problem))
        if known is None:
            num = len(addressed(problem, self.place, partial(prompt_of, self._renderer, problem)))
            known = (problem, self._least <= num and (not self._most or num <= self._most))
            self._fits[id(problem)] = known
        return known[1]

    def made(self, problems: Sequence[Problem], split: Split | None) -> list[Problem]:
        """Raises UserError if none is left."""
        return self._kept(problems, f"{split} problems" if split else "demonstrations")

    def _kept(self, problems: Sequence[Problem], what: str) -> list[Problem]:
        kept = [problem for problem in problems if self._is_kept(problem)]
        if not kept:
            raise UserError(f"{self._spelled}: none of the {len(problems)} {what} has such a prompt")
        return kept


def lengths_told(task: Task, sides: Sequence[Split] = ("train", "test")) -> list[str]:
    """A line of how many of these sides of a task are left, where some may not be."""
    return [task.told(sides)] if isinstance(task, PromptLengths) else []


def limits_prompts(settings: TaskSettings) -> bool:
    """Whether prompts of some lengths are left out."""
    return bool(settings.min_prompt_tokens or settings.max_prompt_tokens)


def with_prompt_lengths(task: Task, settings: TaskSettings, renderer: Renderer) -> Task:
    """The task with those problems that the settings leave; itself where they leave all."""
    return PromptLengths(task, settings, renderer) if limits_prompts(settings) else task
