"""What the rules ask of a run: ends of columns, settings, and its newest attempts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from upslope.errors import UserError
from upslope.inspect.reading.attempts import AttemptsFile, Brief
from upslope.inspect.reading.opened import OpenRun

FLAT = 0.02
"""A reward that rises by less than this share of what was left to win did not rise."""
LEAST_STEPS = 5
"""A run of fewer steps has no course yet: no rule speaks."""
SHARE = 0.2
"""Of the steps are its beginning, and as many its end."""
SURE = 4.0
"""Standard errors beyond which a fall of the reward is no chance."""
TYPICAL_DIFFERENCE = 0.954
"""Median difference of two draws of a normal distribution, in standard deviations."""
ROUNDING = 1e-9
"""Of a sum over a journal, whose numbers have nine digits."""
ALONE = ("returns", "ones", "constant_baseline", "gae")
"""Advantages that every attempt has of its own."""
MOST_LOOKED_AT = 3
"""Newest files of attempts that are read, and oldest ones."""


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

    @property
    def is_paid(self) -> bool:
        """Whether it learns from what attempts earn: not from somebody's words, nor from what a teacher thinks."""
        return self.acts and self.advantage.get("kind") != "teacher_gap"

    @property
    def compares(self) -> bool:
        """Whether an attempt counts only beside the others at its problem, so that equal groups have no gradient."""
        kind, centre = self.advantage.get("kind"), self.advantage.get("centre")
        return self.number("recipe", "sample", "group_size") != 1 and not (kind in ALONE or centre == "batch")

    @property
    def advantage(self) -> Mapping[str, Any]:
        """The recipe's, as run.toml spells it; empty where it does not."""
        found = self.setting("recipe", "advantage")
        return found if isinstance(found, Mapping) else {}

    @property
    def equal(self) -> float:
        """Share of groups, at the run's end, that earned all the same; NaN where a group is a single attempt."""
        return math.nan if self.number("recipe", "sample", "group_size") == 1 else self.last("equal_groups")

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

    def known_at(self, key: str) -> list[tuple[int, float]]:
        """The same with the place of each step."""
        return [(place, value) for place, value in enumerate(self.run.tail.column(key)) if math.isfinite(value)]

    def lost(self) -> float:
        """How much of the mean reward was won and is lost again: the best stretch of the run less its end, each as
        long as ``last`` looks at. 0 unless that is more than half of all that the reward ever moved through, more than
        chance between single steps explains, and leaves no more than a quarter of what was won."""
        values = self.known("reward")
        num = _num_of(values)
        if len(values) < 2 * num:
            return 0.0
        upto = list(accumulate(values, initial=0.0))
        stretches = [(after - before) / num for before, after in zip(upto, upto[num:], strict=False)]
        best, end, begun = max(stretches), stretches[-1], stretches[0]
        steps = sorted(abs(after - before) for before, after in pairwise(values))
        spread = steps[len(steps) // 2] / TYPICAL_DIFFERENCE
        chance = SURE * spread * math.sqrt(2 / num)
        fell, least = best - end, ROUNDING * max(map(abs, values))
        is_lost = fell > max(chance, 0.5 * (max(values) - min(values)), least) and end <= begun + 0.25 * (best - begun)
        return fell if is_lost else 0.0

    def pull(self) -> float:
        """The norm of the whole gradient as a multiple of the most that the reward's part of it can have, mean over the
        measured steps but the first one; NaN where none was measured. Above 1 a penalty or a bonus pulls as well."""
        places = [place for place, up in self.known_at("grad_norm_up") if up > 0 and place > 0]
        rows = [self.run.tail.row(place) for place in places]
        parts = [(row.get("grad_norm", math.nan), row["grad_norm_up"] + row.get("grad_norm_down", 0.0)) for row in rows]
        return mean_of([whole / part for whole, part in parts])

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
    def task(self) -> str:
        """Its name, also where it was an object of Python."""
        return str(self.setting("python", "task") or self.setting("task", "name") or "")

    @property
    def rises(self) -> bool:
        """Whether the reward lies above where it began, by more than a share of what was left to win."""
        first = self.first("reward")
        return self.last("reward") > first + max(FLAT, FLAT * abs(1 - first))

    @cached_property
    def attempts(self) -> list[Brief]:
        """The attempts of the newest files, with their texts; empty where none can be read."""
        return self._attempts(self.run.place.attempt_steps("step")[-MOST_LOOKED_AT:])

    @cached_property
    def first_attempts(self) -> list[Brief]:
        """The same of the oldest files."""
        return self._attempts(self.run.place.attempt_steps("step")[:MOST_LOOKED_AT])

    def _attempts(self, steps: Sequence[int]) -> list[Brief]:
        rows: list[Brief] = []
        for step in steps:
            path = self.run.place.attempts_file("step", step)
            try:
                if path is not None:
                    with AttemptsFile(path) as file:
                        rows += [
                            row | {"step": step}
                            for row in file.with_lengths(file.brief(("response_text", "prompt_text")))
                        ]
            except UserError:
                continue  # the page and `upslope why` say so elsewhere
        return rows


def mean_of(values: list[float]) -> float:
    """The mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def share_where(marks: Sequence[bool]) -> float:
    """How many are true; 0 of none."""
    return sum(marks) / len(marks) if marks else 0.0


def earned_by(row: Brief) -> float:
    """An attempt's reward; 0 where it has none."""
    return float(row.get("reward") or 0.0)


def _num_of(values: list[float]) -> int:
    return max(3, math.ceil(SHARE * len(values)))
