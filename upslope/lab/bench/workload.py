"""How much work is measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upslope.errors import UserError


@dataclass(frozen=True)
class Workload:
    """P problems x G samples x L tokens, every attempt exactly L tokens long.

    >>> Workload.parse("4x8x128")
    Workload(problems=4, samples=8, tokens=128)
    """

    problems: int
    samples: int
    tokens: int

    @classmethod
    def parse(cls, text: str) -> Workload:
        """Raises UserError for anything but three numbers that make some work with a gradient."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.strip())
        if found is None:
            raise UserError(f"--shape {text!r} is not of the form PxGxL, for example 4x8x128")
        work = cls(*map(int, found.groups()))
        if min(work.problems, work.tokens) < 1 or work.samples < 2:
            raise UserError(
                f"--shape {text}: needs at least one problem, two samples (one alone has no sibling to be compared "
                "with, so no gradient) and one token"
            )
        return work

    def __str__(self) -> str:
        return f"{self.problems}x{self.samples}x{self.tokens}"
