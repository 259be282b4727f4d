"""Which tokens a block holds, and whose turn it is, by its number alone: there is no state to be saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upslope.errors import UserError


class Piece(NamedTuple):
    """Tokens ``start`` to before ``stop`` of a document."""

    document: int
    start: int
    stop: int


class Blocks:
    """The documents one after the other, in an order of each epoch's own, cut into blocks of L tokens without a gap.

    Block n holds tokens n*L to (n+1)*L of this endless stream. What is left at the end of an epoch, being shorter than
    a block, is filled up with the start of the next: so every epoch holds every token once, and none is left out.

    >>> blocks = Blocks(np.array([3, 2]), 4, lambda epoch: [0, 1] if epoch == 0 else [1, 0])
    >>> [tuple(piece) for piece in blocks.pieces(0)], [tuple(piece) for piece in blocks.pieces(1)]
    ([(0, 0, 3), (1, 0, 1)], [(1, 1, 2), (1, 0, 2), (0, 0, 1)])
    """

    def __init__(
        self,
        length_D: NDArray[np.int64],
        block: int,
        permutation: Callable[[int], Sequence[int] | NDArray[np.int64]],
        documents: NDArray[np.int64] | None = None,
    ) -> None:
        """``permutation(epoch)`` puts the ``documents`` (None: all) in order: it is one of range(len(documents)).

        Raises UserError if they hold fewer tokens than a block.
        """
        self._document_D = np.arange(len(length_D)) if documents is None else np.asarray(documents, dtype=np.int64)
        self._length_D = np.asarray(length_D)[self._document_D]
        self._block, self._permutation = block, permutation
        self.num_tokens = int(self._length_D.sum())
        """Of an epoch."""
        if block < 1:
            raise ValueError(f"block = {block} must be at least 1")
        if self.num_tokens < block:
            raise UserError(
                f"the text has {self.num_tokens} tokens, fewer than one block of {block}; give more text, or set "
                "recipe.sample.block to that or less"
            )
        self._epoch = lru_cache(2)(self._made)  # a block may lie in two

    def pieces(self, number: int) -> list[Piece]:
        """What block ``number`` (from 0) holds, in order; L tokens in all. O(log D) after an epoch's order is made,
        which takes 16 bytes a document."""
        if number < 0:
            raise ValueError(f"block {number}")
        epoch, start = divmod(number * self._block, self.num_tokens)
        stop = start + self._block
        found = []
        while stop > 0:
            found += self._within(epoch, start, min(stop, self.num_tokens))
            epoch, start, stop = epoch + 1, 0, stop - self.num_tokens
        return found

    def _within(self, epoch: int, start: int, stop: int) -> list[Piece]:
        """Tokens of one epoch."""
        order_D, end_D = self._epoch(epoch)
        first, last = np.searchsorted(end_D, [start, stop - 1], side="right")
        found = []
        for place in range(int(first), int(last) + 1):
            chosen = int(order_D[place])
            end = int(end_D[place])
            first = end - int(self._length_D[chosen])
            found.append(Piece(int(self._document_D[chosen]), max(start, first) - first, min(stop, end) - first))
        return found

    def _made(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """An epoch's order, and where each document of it ends."""
        order_D = np.asarray(self._permutation(epoch), dtype=np.int64)
        if len(order_D) != len(self._length_D):
            raise ValueError(f"an order of {len(order_D)} for {len(self._length_D)} documents")
        return order_D, np.cumsum(self._length_D[order_D])


class Mixture:
    """Whose turn it is, of several sources with weights, by the number of the turn.

    Of the first n turns, source 1 has floor(n * w1 + 1/2), w1 being its share of all weights; the other sources share
    the turns that it leaves in the same way. So after any number of turns each has had its share to within one turn for
    each source, and what a turn holds follows from its number. Computed exactly, in whole numbers.

    >>> [tuple(Mixture([2, 1]).turn(n)) for n in range(6)]
    [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    """

    def __init__(self, weights: Sequence[float]) -> None:
        """Raises UserError for a weight that is not a positive number, and if there is none."""
        if not weights:
            raise UserError("no weights; give one for each source")
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(f"weight {weight:g} must be a number above 0; leave a source out to weigh it nothing")
        exact = [Fraction(weight) for weight in weights]
        self._shares = [weight / sum(exact[place:]) for place, weight in enumerate(exact)]
        """Of what the sources before leave."""

    def turn(self, number: int) -> tuple[int, int]:
        """The source that has turn ``number`` (from 0), and which of its own turns this is."""
        if number < 0:
            raise ValueError(f"turn {number}")
        for source, share in enumerate(self._shares):
            before = _rounded(number, share)
            if _rounded(number + 1, share) > before:
                return source, before
            number -= before
        raise AssertionError("the last source takes every turn that is left")


def _rounded(number: int, share: Fraction) -> int:
    """floor(number * share + 1/2).

    >>> _rounded(3, Fraction(1, 2)), _rounded(4, Fraction(1, 2))
    (2, 2)
    """
    return (2 * number * share.numerator + share.denominator) // (2 * share.denominator)
