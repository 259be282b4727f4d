"""Which documents were there before, in 16 bytes each (and as much again while they are put in order)."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

HASH = np.dtype("S16")
"""As numpy holds one. It takes zero bytes at the end for none, which changes nothing between texts of 16 bytes."""


def hash_of(data: bytes) -> bytes:
    """128 bits of a document's text in UTF-8: what decides whether two are the same, and which are held out."""
    return blake2b(data, digest_size=16).digest()


class Seen:
    """A growing set of hashes: sorted runs, of which two are merged as soon as they are of a size, so there are few of
    them and each hash moves O(log D) times."""

    def __init__(self) -> None:
        self._runs: list[NDArray[np.bytes_]] = []

    def add(self, hashes: Sequence[bytes]) -> list[bool]:
        """For each, in order, whether it is new: neither here before nor earlier in the list."""
        given = np.array(hashes, dtype=HASH)
        run, first = np.unique(given, return_index=True)
        known = np.zeros(len(run), dtype=bool)
        for before in self._runs:
            place = np.minimum(np.searchsorted(before, run), len(before) - 1)
            known |= before[place] == run
        new = np.zeros(len(given), dtype=bool)
        new[first[~known]] = True
        self._push(run[~known])
        return [bool(flag) for flag in new]

    def _push(self, run: NDArray[np.bytes_]) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # of two runs, a merge
        self._runs.append(run)
