"""What the rules ask of a run: ends of columns, settings, and its newest attempts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from upslope.errors import UserError
from upslope.inspect.reading.attempts import AttemptsFile, Brief
from upslope.inspect.reading.opened import OpenRun

LEAST_STEPS = 5
"""A run of fewer steps has no course yet: no rule speaks."""
SHARE = 0.2
"""Of the steps are its beginning, and as many its end."""
MOST_LOOKED_AT = 3
"""Newest files of attempts that are read."""


@dataclass(frozen=True)
class RunCourse:
    """A run, asked in the words of the rules. A mean over nothing is NaN, and every comparison with it is false."""

    run: OpenRun

    @property
    def num_steps(self) -> int:
        return len(self.run.tail.steps)

    @property
    def acts(self) -> bool:
        """Whether the run learns from attempts, and not from somebody else's words."""
        return "equal_groups" in self.run.tail.columns

    def known(self, key: str) -> list[float]:
        """All values of a column, in order."""
        return [value for value in self.run.tail.column(key) if math.isfinite(value)]

    def first(self, key: str) -> float:
        """Mean over the run's beginning."""
        values = self.known(key)
        return mean_of(values[: _num_of(values)])

    def last(self, key: str) -> float:
        """Mean over the run's end."""
        values = self.known(key)
        return mean_of(values[-_num_of(values) :])

    def share(self, key: str, above: float) -> float:
        """Of the steps that have the column, how many lie above; NaN where none has it."""
        return mean_of([float(value > above) for value in self.known(key)])

    def setting(self, *keys: str) -> Any:
        return self.run.said(*keys)

    def number(self, *keys: str) -> float:
        """A setting that is a number; NaN where it is none."""
        found = self.run.said(*keys)
        return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan

    @property
    def accuracy(self) -> list[float]:
        """Of the evaluations, greedy."""
        found = [row.get("greedy") for _, row in sorted(self.run.tail.evals.items())]
        return [float(e["value"]) for e in found if isinstance(e, dict) and isinstance(e.get("value"), int | float)]

    @cached_property
    def attempts(self) -> list[Brief]:
        """The attempts of the newest files, with their texts; empty where none can be read."""
        rows: list[Brief] = []
        for step in self.run.place.attempt_steps("step")[-MOST_LOOKED_AT:]:
            path = self.run.place.attempts_file("step", step)
            try:
                if path is not None:
                    with AttemptsFile(path) as file:
                        rows += [row | {"step": step} for row in file.brief(("response_text",))]
            except UserError:
                continue  # the page and `upslope why` say so elsewhere
        return rows


def mean_of(values: list[float]) -> float:
    """The mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def _num_of(values: list[float]) -> int:
    return max(3, math.ceil(SHARE * len(values)))
