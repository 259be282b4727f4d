"""How long attempts are: each length a function of its address, so that an attempt made again is as long as before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

from upslope.errors import UserError
from upslope.rollout.address import Address

NORMAL = NormalDist()


class Lengths(Protocol):
    """Tokens of an attempt, in 1 .. ``most``."""

    @property
    def most(self) -> int: ...
    def at(self, share: float) -> int:
        """The length that this share of all attempts is shorter than, or as long as."""
        ...


@dataclass(frozen=True)
class LognormalLengths:
    """exp(N(m, spread^2)) with a mean of ``mean`` before it is cut at ``most``: m = ln mean - spread^2 / 2.

    >>> LognormalLengths(100, 0.0, 64).at(0.5), LognormalLengths(100, 1.0, 4096).at(0.5)
    (64, 61)
    """

    mean: float
    spread: float
    most: int

    def at(self, share: float) -> int:
        middle = math.log(self.mean) - self.spread**2 / 2
        drawn = math.exp(middle + self.spread * NORMAL.inv_cdf(min(max(share, 1e-12), 1 - 1e-12)))
        return max(1, min(self.most, round(drawn)))


@dataclass(frozen=True)
class KeptLengths:
    """Those of attempts that a run kept, cut at ``most``.

    >>> KeptLengths([3, 1, 9], 8).at(0.99), KeptLengths([3, 1, 9], 8).at(0.0)
    (8, 1)
    """

    kept: Sequence[int]
    most: int

    def __post_init__(self) -> None:
        if not self.kept:
            raise UserError("no attempt was kept, so their lengths are not known; give --mean-tokens")

    @cached_property
    def _sorted(self) -> list[int]:
        return sorted(self.kept)

    def at(self, share: float) -> int:
        return max(1, min(self.most, self._sorted[int(share * len(self._sorted))]))


@dataclass(frozen=True)
class AddressedLengths:
    """The length of attempt ``sample`` at problem number ``problem``, by the seed alone."""

    lengths: Lengths
    seed: int = 0

    @cached_property
    def _address(self) -> Address:
        return Address(self.seed, "plan")

    def of(self, problem: int, sample: int) -> int:
        return self.lengths.at((self._address.key(str(problem), sample) >> 11) * 2.0**-53)


def mean_length(lengths: Lengths, num: int = 2000) -> float:
    """The mean of all, cut ones too, by ``num`` evenly spaced shares."""
    return sum(lengths.at((i + 0.5) / num) for i in range(num)) / num
