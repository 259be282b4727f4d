"""Which documents are kept from training: those whose text has a low hash, so the same in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from upslope.text.seen import hash_of


def kept_out(text: str, share: float) -> bool:
    """Whether a text is among the share, whatever stands beside it: its hash, as a number in [0, 1), is below it."""
    return first_of_hash(text) < _limit(share)


def first_of_hash(text: str) -> int:
    """The first 64 bits of a text's hash."""
    return int.from_bytes(hash_of(text.encode())[:8], "big")


def held_out_documents(hash_D2: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Which of the documents of a corpus are held out, by their hashes as two numbers of 64 bits: ``kept_out``. So
    few documents that none is among the share have company that decides: the one with the smallest hash is held out. If
    that are all, all but the one with the largest; a single document is never held out."""
    first_D = hash_D2[:, 0]
    held_D: NDArray[np.bool_] = first_D < np.uint64(_limit(share))
    if share and len(first_D) > 1:
        if not held_D.any():
            held_D[np.argmin(first_D)] = True
        if held_D.all():
            held_D[np.argmax(first_D)] = False
    return held_D if len(first_D) > 1 else np.zeros(len(first_D), dtype=np.bool_)


def _limit(share: float) -> int:
    return int(share * 2.0**64)
