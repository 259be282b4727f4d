"""What a reward function returned, as one number or None for each response."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from upslope.errors import UserError
from upslope.plugins import said, unless_interrupted
from upslope.tasks.at_work import on
from upslope.types import Problem

NOT_A_ROW = (str, bytes, bytearray, dict, set, frozenset)
"""What can be gone through and is no list of numbers, in the order of the responses, all the same."""


def listed_values(result: Any) -> list[Any] | None:
    """The values of a list, an array, a tensor, a Series, a generator: of whatever can be gone through in order; None
    of anything else.

    >>> listed_values(number / 2 for number in (1, 2)), listed_values("no list")
    ([0.5, 1.0], None)
    """
    if isinstance(result, NOT_A_ROW):
        return None
    plain = getattr(result, "tolist", None)  # arrays and tensors: of a column, too, whose numbers stand in lists of one
    if callable(plain):
        result = plain()
        if isinstance(result, list) and result and all(isinstance(row, list) and len(row) == 1 for row in result):
            result = [row[0] for row in result]
    return list(result) if isinstance(result, Iterable) and not isinstance(result, NOT_A_ROW) else None


def checked_values(name: str, result: Any, values: list[Any] | None, problems: Sequence[Problem]) -> list[float | None]:
    """``values`` as floats, one for each problem; None where the function does not apply. ``result`` is what they were
    read from. Raises UserError."""
    if values is None:
        kind = f"the class {result.__name__}" if isinstance(result, type) else f"a {type(result).__name__}"
        raise UserError(
            f"reward function {name!r} returned {kind} {on(problems)}: "
            "return a list (an array, a tensor, a Series) with one number or None for each completion"
        )
    if len(values) != len(problems):
        raise UserError(
            f"reward function {name!r} returned {len(values)} values for {len(problems)} completions "
            f"({problems[0].id} to {problems[-1].id}): return one number or None for each"
        )
    return [_value(name, value, problem) for value, problem in zip(values, problems, strict=True)]


def finite(value: Any) -> float | None:
    """A number of any library, or true or false, as a float; None if it is none, or not finite."""
    try:
        # Numbers of all libraries (and bools) have __float__; float() would also parse strings, which are mistakes.
        number = float(value) if hasattr(value, "__float__") else math.nan
    except BaseException as error:
        unless_interrupted(error)
        return None
    return number if math.isfinite(number) else None


def _value(name: str, value: Any, problem: Problem) -> float | None:
    if value is None or type(value).__name__ == "NAType":  # pandas has a None of its own
        return None
    number = finite(value)
    if number is None:
        raise UserError(
            f"reward function {name!r} returned {said(value):.80} for {problem.id}: "
            "return a finite number, or None where the function does not apply"
        )
    return number
