"""What all tasks share that are made of rows: reading them once, the two sides, the user's rewards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from upslope.tasks.base import Split, Task
from upslope.tasks.columns import Columns, Fields, check_columns, rename, renamed_rows
from upslope.tasks.files import Files, file_rows
from upslope.tasks.problem_set import ProblemSet, Row, make_problem_set
from upslope.tasks.reward_columns import require_columns
from upslope.tasks.rewards import Rewards
from upslope.types import Problem, Score


class RowTask(Task):
    """A subclass says how a row becomes a problem, and what scores it where the user gives no rewards."""

    fields: ClassVar[Fields]
    """What ``build`` reads of a row."""
    undivided: Split | None = None
    """The side of rows that neither their file nor a ``split`` column puts on one; None: a hash of the prompt does."""

    def __init__(self, files: Files, rewards: Rewards, columns: Columns) -> None:
        check_columns(self.name, columns, self.fields)
        self._files, self._rewards, self._columns = files, rewards, columns

    @abstractmethod
    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        """The problem in a row; its id is empty if the row has none. Raises UserError that begins with ``where``."""

    def look_over(self, rows: Sequence[Row]) -> None:
        """Whatever has to be known of all rows before one becomes a problem; nothing, as it stands here."""
        return

    @abstractmethod
    def without_files(self) -> Iterable[Row]:
        """Rows where the user gave no file. Raises UserError if there are none."""

    @abstractmethod
    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """``problem_from_row``, columns being renamed."""

    @cached_property
    def _set(self) -> ProblemSet:
        rows = file_rows(self._files) if self._files else self.without_files()
        renamed = list(renamed_rows(rows, self._columns, self.fields))
        self.look_over(renamed)
        first, *more = [str(path) for path, _ in self._files] or ["the data"]
        source = f"{first} and {len(more)} more files" if len(more) > 1 else " and ".join([first, *more])
        return make_problem_set(self.name, renamed, self.build, source, self.undivided)

    def problems(self, split: Split) -> Sequence[Problem]:
        return self._set.problems(split)

    def demonstrations(self) -> Sequence[Problem]:
        return self._set.demonstrations()

    def check_columns(self) -> None:
        require_columns(self._rewards.functions, [*self._set.train, *self._set.test])

    def place(self, problem: Problem) -> str:
        where = self._set.where.get(problem.id)
        return f"{problem.id} ({where})" if where else problem.id

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        return self.build_to_score(rename(row, self._columns, self.fields), where)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """The weighted sum of the user's rewards. Raises UserError, even for no responses, if there are none."""
        self.check_rewards()
        return self._rewards.score(problems, responses)
