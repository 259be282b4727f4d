"""Columns of a journal as curves with few enough points to be drawn: means of equal stretches, and their extremes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from upslope.inspect.reading.tail import Tail

AXES = ("step", "tokens", "seconds")


def axis_of(tail: Tail, axis: str) -> list[float]:
    """Where each step stands: its number, or the tokens or the seconds of all steps up to it. What is missing counts
    as nothing."""
    if axis == "step":
        return [float(step) for step in tail.steps]
    if axis == "tokens":
        return list(accumulate(value if math.isfinite(value) else 0.0 for value in tail.column("num_tokens")))
    if axis == "seconds":
        return list(accumulate(_steps_of(tail.column("spent"))))
    raise ValueError(f"axis {axis!r} is none of {', '.join(AXES)}")


def _steps_of(spent: Sequence[float]) -> list[float]:
    """Seconds of each step from their running sum; a gap or a fall (another clock) is nothing."""
    known, last = [], 0.0
    for value in spent:
        known.append(max(value - last, 0.0) if math.isfinite(value) else 0.0)
        last = value if math.isfinite(value) else last
    return known


def at_axis(tail: Tail, axis: str, step: float) -> float:
    """Where an evaluation after ``step`` turns stands: at the end of the step before."""
    if axis == "step":
        return step
    done = [place for place, number in enumerate(tail.steps) if number < step]
    return axis_of(tail, axis)[done[-1]] if done else 0.0


def curve(at: Sequence[float], values: Sequence[float], most: int) -> dict[str, list[float | None]]:
    """At most ``most`` points: ``x`` the last place of a stretch, ``y`` the mean of what is known in it, ``low`` and
    ``high`` its least and greatest value. None where nothing is known.

    >>> curve([0, 1, 2, 3], [1.0, 3.0, math.nan, 5.0], most=2)
    {'x': [1.0, 3.0], 'y': [2.0, 5.0], 'low': [1.0, 5.0], 'high': [3.0, 5.0]}
    """
    num = len(values)
    if not num:
        return {"x": [], "y": [], "low": [], "high": []}
    edges = np.unique(np.linspace(0, num, min(num, max(most, 1)) + 1).round().astype(int))
    starts, ends = edges[:-1], edges[1:]
    value = np.asarray(values, dtype=float)
    known = np.isfinite(value)
    count = np.add.reduceat(known, starts, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(known, value, 0.0), starts) / count
    low = np.minimum.reduceat(np.where(known, value, np.inf), starts)
    high = np.maximum.reduceat(np.where(known, value, -np.inf), starts)
    return {
        "x": _plain_numbers(np.asarray(at, dtype=float)[ends - 1]),
        "y": _plain_numbers(mean),
        "low": _plain_numbers(low),
        "high": _plain_numbers(high),
    }


def _plain_numbers(values: Any) -> list[float | None]:
    """As JSON can say them, to six digits: a screen shows no more."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]
