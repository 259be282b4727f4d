"""Two accuracies on the same problems: how sure their difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from upslope.training.statistics import Interval, wilson


@dataclass(frozen=True)
class Paired:
    """Of the same problems: right by both, only by the first, only by the second, by neither.

    >>> Paired(40, 5, 15, 40).num, round(Paired(40, 5, 15, 40).difference.value, 3)
    (100, 0.1)
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def num(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def accuracies(self) -> tuple[Interval, Interval]:
        return wilson(self.both + self.first, self.num), wilson(self.both + self.second, self.num)

    @property
    def difference(self) -> Interval:
        """p2 - p1 with its 95 % interval, by Newcombe's square-and-add (Statistics in Medicine 17, 1998, method 10):

            d - sqrt((p2 - l2)^2 - 2 phi (p2 - l2)(u1 - p1) + (u1 - p1)^2)  to
            d + sqrt((u2 - p2)^2 - 2 phi (u2 - p2)(p1 - l1) + (p1 - l1)^2)

        with the Wilson intervals [l, u] of each and the correlation phi of the two on the same problems, from the
        table's determinant D = both x neither - first x second: (D - num / 2, or 0 if that is below 0) / sqrt(product
        of the margins) for D above 0, D / sqrt(...) else, and 0 where a margin is empty.
        """
        one, two = self.accuracies
        value, phi = two.value - one.value, self._phi()
        below = _joined(two.value - two.low, one.high - one.value, phi)
        above = _joined(two.high - two.value, one.value - one.low, phi)
        return Interval(value, value - below, value + above)

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how often as lopsided a split of the problems on which the two disagree, or more, if
        either were as likely to win each: 2 P(X <= min(first, second)) for X binomial (first + second, 1/2), at most
        1."""
        num, least = self.first + self.second, min(self.first, self.second)
        term = total = 1  # C(num, k), one from the other
        for k in range(1, least + 1):
            term = term * (num - k + 1) // k
            total += term
        return min(1.0, 2 * total / 2**num) if num else 1.0

    def _phi(self) -> float:
        right, wrong = self.both + self.first, self.second + self.neither
        right2, wrong2 = self.both + self.second, self.first + self.neither
        margins = right * wrong * right2 * wrong2
        if not margins:
            return 0.0
        told = self.both * self.neither - self.first * self.second
        return (max(told - self.num / 2, 0.0) if told > 0 else told) / math.sqrt(margins)


def _joined(one: float, two: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * two + two**2, 0.0))


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """
    >>> paired([True, True, False], [True, False, True])
    Paired(both=1, first=1, second=1, neither=0)
    """
    told = list(zip(first, second, strict=True))
    return Paired(*(told.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))
