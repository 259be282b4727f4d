"""A task around another one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.tasks.base import Shares, Split, Task
from upslope.tasks.episode import Episode
from upslope.types import Problem, Score


class AroundTask(Task):
    """Passes everything on; a subclass says what it does otherwise."""

    def __init__(self, inner: Task) -> None:
        self._inner = inner
        self.name, self.max_tokens, self.reads_answers = inner.name, inner.max_tokens, inner.reads_answers
        self.has_reward, self.says_right = inner.has_reward, inner.says_right
        self.independent, self.keep_special = inner.independent, inner.keep_special

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._inner.problems(split)

    def demonstrations(self) -> Sequence[Problem]:
        return self._inner.demonstrations()

    def shares(self) -> Shares:
        return self._inner.shares()

    def documents(self) -> Sequence[str]:
        return self._inner.documents()

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return self._inner.score(problems, responses)

    def fingerprint(self) -> str:
        return self._inner.fingerprint()

    def check_rewards(self) -> None:
        self._inner.check_rewards()

    def episode(self, problem: Problem) -> Episode | None:
        return self._inner.episode(problem)

    def check_columns(self) -> None:
        self._inner.check_columns()

    def place(self, problem: Problem) -> str:
        return self._inner.place(problem)

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        return self._inner.problem_from_row(row, where)


class OtherRows(AroundTask):
    """The same with something done to its problems and demonstrations, once: problems are asked for in every step."""

    def __init__(self, inner: Task) -> None:
        super().__init__(inner)
        self._sides: dict[Split, Sequence[Problem]] = {}
        self._demonstrations: Sequence[Problem] | None = None

    @abstractmethod
    def made(self, problems: Sequence[Problem], split: Split | None) -> Sequence[Problem]:
        """What becomes of the problems of a side; None: of demonstrations."""

    def problems(self, split: Split) -> Sequence[Problem]:
        if split not in self._sides:
            self._sides[split] = self.made(super().problems(split), split)
        return self._sides[split]

    def demonstrations(self) -> Sequence[Problem]:
        if self._demonstrations is None:
            found = super().demonstrations()
            self._demonstrations = self.made(found, None) if found else found
        return self._demonstrations

    def shares(self) -> Shares:
        return [(share, self.made(rows, None)) for share, rows in super().shares()]
