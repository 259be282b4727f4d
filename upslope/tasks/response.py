"""What is scored: the text of a response, and what else is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Standing(NamedTuple):
    """How far a run is.

    >>> Standing(step=30, steps=150, epoch=0.5).steps
    150
    """

    step: int = 0
    """Turns of the loop that are done."""
    steps: int = 0
    """All turns; 0: there is no run."""
    epoch: float = 0.0
    """Passes over the training problems that are done."""


NO_RUN = Standing()


class Response(str):
    """The text of a response, which is all that most rewards read, with what else is known of it. Any other text is a
    response of which nothing else is known.

    >>> Response("hi", tokens=(7, 2)).tokens
    (7, 2)
    """

    tokens: tuple[int, ...] | None
    """As it was written, the end token among them; None: unknown."""
    standing: Standing
    """Of the run that it was made in."""

    def __new__(cls, text: str, tokens: Sequence[int] | None = None, standing: Standing = NO_RUN) -> Response:
        made = super().__new__(cls, text)
        made.tokens, made.standing = None if tokens is None else tuple(tokens), standing
        return made
