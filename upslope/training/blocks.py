"""Documents packed into blocks of a fixed number of tokens: who is in which block is a function of its number.

A corpus's documents are laid end to end, pass after pass, each pass in an order of its own, drawn by its address. Block
number n of L tokens is that endless row's tokens [n L, (n + 1) L). So every token is in exactly one block a pass, and a
run that was stopped needs nothing but the number of its step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from upslope.rollout.address import Address
from upslope.types import Group, Problem, Rollout, Score

DEFAULT_BLOCK = 512
"""Tokens of a block of text, where the settings leave it open and the model has the positions."""
Index = NDArray[np.int64]


class Tokens(Protocol):
    """Documents as tokens, each with its end token: ``upslope.text.corpus.Corpus``, or ``OwnDocuments``."""

    @property
    def length_D(self) -> Index:
        """Tokens of each document, its end token included."""
        ...

    @property
    def bytes_D(self) -> Index:
        """UTF-8 bytes of its text."""
        ...

    @property
    def held_out_D(self) -> NDArray[np.bool_]:
        """Which are not to be learnt from."""
        ...

    @property
    def fingerprint(self) -> str: ...

    def read(self, document: int, start: int = 0, stop: int | None = None) -> Index:
        """Token ids of a part of a document."""
        ...


class Piece(NamedTuple):
    """Tokens [start, stop) of a document.

    >>> Piece(document=3, start=0, stop=512).stop
    512
    """

    document: int
    start: int
    stop: int


class Laid:
    """Documents end to end, in a given order.

    >>> Laid(np.array([7, 4]), np.array([3, 5])).pieces(2, 6)
    [Piece(document=7, start=2, stop=3), Piece(document=4, start=0, stop=3)]
    """

    def __init__(self, documents: Index, lengths: Index) -> None:
        """``documents`` by number, and the tokens of each."""
        self._documents, self._end = documents, np.cumsum(lengths)

    def pieces(self, begin: int, stop: int) -> list[Piece]:
        """The documents' parts that tokens [begin, stop) are, none of them empty."""
        found: list[Piece] = []
        place = int(np.searchsorted(self._end, begin, side="right"))
        while begin < stop:
            start = int(self._end[place - 1]) if place else 0
            end = min(int(self._end[place]), stop)
            found.append(Piece(int(self._documents[place]), begin - start, end - start))
            begin, place = end, place + 1
        return found


class Stream:
    """The documents of a corpus that are learnt from, laid end to end in pass after pass without an end."""

    def __init__(self, corpus: Tokens, seed: int, purpose: str) -> None:
        """``purpose`` is part of the address of every pass's order. The corpus has at least one such document."""
        self.corpus = corpus
        self._documents = np.flatnonzero(~corpus.held_out_D & (corpus.length_D > 0))
        self.num_tokens = int(corpus.length_D[self._documents].sum())
        """Of one pass."""
        self._seed, self._purpose = seed, purpose
        self._passes: dict[int, Laid] = {}

    def pieces(self, begin: int, stop: int) -> list[Piece]:
        """What tokens [begin, stop) of the endless row are."""
        found: list[Piece] = []
        while begin < stop:
            number, place = divmod(begin, self.num_tokens)
            num = min(stop - begin, self.num_tokens - place)
            found += self._pass(number).pieces(place, place + num)
            begin += num
        return found

    def _pass(self, number: int) -> Laid:
        """One pass's order; it and the one before are kept."""
        if number not in self._passes:
            key_D = Address(self._seed, self._purpose, number).uniforms([("", 0)], len(self._documents))[0]
            documents = self._documents[np.argsort(key_D, kind="stable")]
            self._passes = {n: laid for n, laid in self._passes.items() if n == number - 1}
            self._passes[number] = Laid(documents, self.corpus.length_D[documents])
        return self._passes[number]


def turn(number: int, weights: Sequence[float]) -> tuple[int, int]:
    """(source, index): whose turn block ``number`` is, and how many blocks that source had before.

    Of any first n blocks, the first source has floor(n w_1) for its share w_1, and the others share the rest in the
    same way: a Beatty sequence within a Beatty sequence. No source is ever a whole block short for each that stands
    before it, and nothing has to be counted from the start.

    >>> [turn(n, [3, 1])[0] for n in range(8)], turn(7, [3, 1])
    ([1, 0, 0, 0, 1, 0, 0, 0], (0, 5))
    """
    for source, weight in enumerate(weights):
        share = weight / math.fsum(weights[source:])
        before = math.floor(number * share)
        if source == len(weights) - 1 or math.floor((number + 1) * share) > before:
            return source, min(before, number)
        number -= before
    raise ValueError("no source has a weight")


def rows(
    corpus: Tokens, pieces: Sequence[Piece], start_ids: tuple[int, ...], *, across: bool = False
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, response) for each piece, or (``across``) one for all of them together. Every token of the pieces stands
    in a response once. The prompt is what it begins after: the token before, or ``start_ids`` at a document's
    beginning."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for document, start, stop in pieces:
        ids = tuple(corpus.read(document, max(start - 1, 0), stop).tolist())
        found.append((ids[:1], ids[1:]) if start else (start_ids, ids))
    if not across:
        return found
    return [(found[0][0], tuple(token for _, response in found for token in response))]


def as_group(name: str, given: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], end_ids: Sequence[int]) -> Group:
    """Rows of given text as attempts with reward 1; they are one group, since they are parts of one thing."""
    return Group(
        Problem(name, ()),
        tuple(
            Rollout(
                problem_id=name,
                sample=place,
                prompt=prompt,
                response=response,
                mask=(True,) * len(response),
                logp=None,
                version=0,
                ended="stop" if response[-1] in end_ids else "length",
                text="",
                score=Score(1.0),
            )
            for place, (prompt, response) in enumerate(given)
        ),
    )


class Blocks:
    """The blocks of a run, from one corpus or from several by weights."""

    def __init__(
        self,
        corpora: Sequence[Tokens],
        weights: Sequence[float],
        seed: int,
        *,
        length: int,
        across: bool,
        start_ids: tuple[int, ...],
        end_ids: Sequence[int],
    ) -> None:
        """``weights``: one a corpus. ``length`` tokens have a block."""
        self._streams = [Stream(corpus, seed, f"text/{place}") for place, corpus in enumerate(corpora)]
        self._weights, self.length, self._across = list(weights), length, across
        self._start_ids, self._end_ids = start_ids, end_ids

    def take(self, step: int, num: int) -> list[Group]:
        """The ``num`` blocks of a step, a group each."""
        return [self.block(step * num + place) for place in range(num)]

    def block(self, number: int) -> Group:
        """One block by its number."""
        source, index = turn(number, self._weights)
        stream = self._streams[source]
        pieces = stream.pieces(index * self.length, (index + 1) * self.length)
        given = rows(stream.corpus, pieces, self._start_ids, across=self._across)
        return as_group(f"block/{number}", given, self._end_ids)
