"""Randomness by address: every draw is a function of (seed, purpose, step, problem, sample, position).

There is no generator whose state could drift, so a draw does not depend on what else was drawn, in which order, in
which batch, on which worker, or before which restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Address:
    """The part of the address that a whole step shares."""

    seed: int
    purpose: str
    """``sample``, ``eval``, the name of what is put in order: draws for different purposes never coincide."""
    step: int = 0

    def key(self, problem: str, sample: int) -> int:
        """64 bits for one attempt."""
        text = f"{self.seed}\x00{self.purpose}\x00{self.step}\x00{problem}\x00{sample}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")

    def uniforms(self, attempts: Sequence[tuple[str, int]], num_positions: int) -> NDArray[np.float64]:
        """[N, T] numbers in [0, 1), one for every position of every (problem, sample).

        Position t of an attempt is output t of SplitMix64 (Steele, Lea and Flood 2014) started at the attempt's key;
        the top 53 bits make the number.
        """
        keys = np.array([self.key(*attempt) for attempt in attempts], dtype=np.uint64)
        counter = np.arange(1, num_positions + 1, dtype=np.uint64) * GOLDEN
        z = keys[:, None] + counter
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
        numbers: NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return numbers

    def permutation(self, num: int) -> list[int]:
        """An order of ``num`` things, the same for the same address."""
        return [int(i) for i in np.argsort(self.uniforms([("", 0)], num)[0], kind="stable")]
