"""Text in blocks of a fixed number of tokens, as attempts to be imitated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from upslope.errors import UserError
from upslope.model.renderer import Renderer
from upslope.rollout.address import Address
from upslope.text.order import Blocks, Mixture, Piece
from upslope.types import Group, Problem, Rollout, Score

DEFAULT_BLOCK = 512
"""Tokens of a block of text, where the settings leave it open and the model has the positions."""
Index = NDArray[np.int64]


class TokenStore(Protocol):
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


def rows_of_pieces(
    corpus: TokenStore, pieces: Sequence[Piece], start_ids: tuple[int, ...], *, across: bool = False
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


class TextBlocks:
    """The blocks of a run, of one corpus or of several by weights. Which tokens a block holds follows from its number
    (``upslope.text.order``), so a run that was stopped needs nothing but the number of its step."""

    def __init__(
        self,
        corpora: Sequence[TokenStore],
        weights: Sequence[float],
        seed: int,
        *,
        length: int,
        across: bool,
        renderer: Renderer,
    ) -> None:
        """``weights``: one a corpus. A block has ``length`` tokens. Raises UserError for a corpus that has fewer to
        learn from."""
        self._sources: list[tuple[TokenStore, Blocks]] = []
        for place, corpus in enumerate(corpora):
            documents = np.flatnonzero(~corpus.held_out_D)
            try:
                blocks = Blocks(corpus.length_D, length, order(seed, place, documents), documents)
            except UserError as error:
                which = f"source {place + 1} of task.text: " if len(corpora) > 1 else ""
                raise UserError(f"{which}{error}") from None
            self._sources.append((corpus, blocks))
        self._mixture, self._across, self._renderer = Mixture(weights), across, renderer
        self._length = length

    def require(self, num: int) -> None:
        """Raise UserError for a step of more blocks than all the text has: nobody means that, and it would not fit the
        memory."""
        most = sum(int(corpus.length_D[~corpus.held_out_D].sum()) for corpus, _ in self._sources) // self._length
        if num > most:
            raise UserError(
                f"a step takes {num:,} blocks of {self._length} tokens, and the text has {most:,} to learn from; set "
                "problems to that or less, recipe.sample.block to fewer tokens, or give more text"
            )

    def take(self, step: int, num: int) -> list[Group]:
        """The ``num`` blocks of a step, a group each."""
        return [self.block(step * num + place) for place in range(num)]

    def block(self, number: int) -> Group:
        """One block by its number."""
        source, turn = self._mixture.turn(number)
        corpus, blocks = self._sources[source]
        given = rows_of_pieces(corpus, blocks.pieces(turn), self._renderer.start_ids, across=self._across)
        return as_group(f"block/{number}", given, self._renderer.end_ids)


def order(seed: int, source: int, documents: Index) -> Callable[[int], Index]:
    """An order of the documents for every epoch, drawn by its address."""

    def permutation(epoch: int) -> Index:
        return shuffled(Address(seed, f"text/{source}", epoch), len(documents))

    return permutation


def shuffled(address: Address, num: int) -> Index:
    """``address.permutation(num)`` of many things: 16 bytes each."""
    return np.argsort(address.uniforms([("", 0)], num)[0], kind="stable")
