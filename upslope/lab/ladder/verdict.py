"""What a verdict is: an expectation, the numbers that bear on it, and whether they bear it out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["pain", "cure"]
Appearance = Literal["appears", "in part", "does not appear", "not measured"]


@dataclass(frozen=True)
class Sign:
    """An expectation, what was measured, and whether it holds (None: it could not be measured)."""

    side: Side
    expected: str
    measured: str
    holds: bool | None


@dataclass(frozen=True)
class Headache:
    """A branch's pain, the next branch's cure, and what became of both here. ``missing``: recipes that did not run."""

    parent: str
    child: str
    pain: str
    cure: str
    checks: tuple[Sign, ...] = ()
    missing: tuple[str, ...] = ()

    def verdict(self, side: Side) -> Appearance:
        """All expectations of that side hold, some, or none."""
        known = [c.holds for c in self.checks if c.side == side and c.holds is not None]
        if not known:
            return "not measured"
        return "appears" if all(known) else "in part" if any(known) else "does not appear"


@dataclass(frozen=True)
class Compared:
    """first and second, means over seeds, and the spread that their difference has to exceed: the range of the
    difference over seeds (both had the same start), or twice the standard error of counting so many attempts,
    whichever is more. NaN where nothing is known."""

    first: float
    second: float
    spread: float

    @property
    def larger(self) -> bool | None:
        """Whether first is larger by more than the spread."""
        return self.first - self.second > self.spread if math.isfinite(self.spread) else None

    @property
    def not_smaller(self) -> bool | None:
        """Whether first is not smaller by more than the spread."""
        return self.second - self.first <= self.spread if math.isfinite(self.spread) else None


def compare(first: Sequence[float], second: Sequence[float], num_counted: float = math.inf) -> Compared:
    """Two lists of shares, a value a seed and seed by seed in one order, each counted from ``num_counted`` attempts
    (infinite: not a share).

    >>> found = compare([0.9, 0.7], [0.5, 0.4])
    >>> round(found.spread, 3), found.larger  # differences 0.4 and 0.3: their range is 0.1, their mean 0.35
    (0.1, True)
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not pairs:
        return Compared(average(first), average(second), math.nan)
    means = (average([a for a, _ in pairs]), average([b for _, b in pairs]))
    differences = [a - b for a, b in pairs]
    variance = sum(max(m * (1 - m), 0.0) for m in means) / (num_counted * len(pairs))
    return Compared(*means, max(max(differences) - min(differences), 2 * math.sqrt(variance)))


def average(values: Sequence[float]) -> float:
    """The mean of what is known; NaN of nothing."""
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan


def reaches(value: float, bound: float) -> bool | None:
    """Whether value >= bound; None where one of them is unknown."""
    return value >= bound if math.isfinite(value) and math.isfinite(bound) else None
