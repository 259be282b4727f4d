"""A conversation's next turn: what a policy reads after the tokens that it has read and written so far.

The chat is rendered whole, as text. If that text begins with the text of the tokens so far, the rest of it is
tokenised, and follows them: they stay what they were. Space is left out of that comparison, since templates trim it
from a turn, and no policy can know that; and one end of a turn counts as another. If the text begins otherwise, the
template now writes what was said in another way (Qwen3 drops earlier thinking): then the policy goes on behind the
whole chat, as it would read it elsewhere too, and that is a fork. Nothing that it wrote is ever scored by other tokens
than those it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from upslope.errors import UserError


class ReadsBack(Protocol):
    """What is asked of a renderer here."""

    @property
    def end_ids(self) -> tuple[int, ...]: ...
    @property
    def written_end(self) -> int | None: ...
    def ids(self, text: str) -> tuple[int, ...]: ...
    def whole_ids(self, text: str) -> tuple[int, ...]: ...
    def spelled(self, ids: Sequence[int]) -> str: ...


class Continued(NamedTuple):
    """What is read before the next turn.

    >>> Continued((7, 8), forks=False).tokens
    (7, 8)
    """

    tokens: tuple[int, ...]
    """What follows the tokens so far; of a fork, the prompt in their place."""
    forks: bool


def continued(of: ReadsBack, text: str, row: Sequence[int]) -> Continued:
    """What is read before the next turn of a chat that is rendered as ``text``, of which ``row`` are the tokens up to
    the end of the last turn. Raises UserError if the template writes nothing between two turns."""
    begin = _end_of(of.spelled(row), text)
    if begin is None:
        begin = _end_by_any(of, text, row)
    if begin is None:
        return Continued(of.whole_ids(text), forks=True)
    between = of.ids(text[begin:])
    if not between:
        raise UserError("the model's chat template writes nothing between two turns; give it one that does")
    return Continued(between, forks=False)


def _end_by_any(of: ReadsBack, text: str, row: Sequence[int]) -> int | None:
    """``_end_of`` where one end of a turn counts as another: a template writes its own, or none, whichever the policy
    ended its turns with (Llama's calls end otherwise than its answers)."""
    ends = {of.spelled([i]) for i in of.end_ids} - {""}
    cut = re.compile("(" + "|".join(map(re.escape, sorted(ends, key=len, reverse=True))) + ")")
    one = "" if of.written_end is None else of.spelled([of.written_end])

    def shown(pieces: Sequence[str]) -> list[str]:
        return [one if n % 2 else piece for n, piece in enumerate(pieces)]

    pieces = cut.split(text)
    place = _end_of("".join(shown(cut.split(of.spelled(row)))), "".join(shown(pieces)))
    behind = 0
    for piece, instead in zip(pieces, shown(pieces), strict=True):
        if place is not None and place <= len(instead):
            return behind + (place if piece == instead else len(piece))
        place = None if place is None else place - len(instead)
        behind += len(piece)
    return None


def _end_of(begun: str, text: str) -> int | None:
    """Where ``text`` goes on after ``begun``; None if it does not begin so. Space does not count, but at the very end.

    >>> _end_of("<u>a<e>", "<u>a <e>\\n<u>"), _end_of("<u>b", "<u>a")
    (8, None)
    """
    if text.startswith(begun):
        return len(begun)
    place = 0
    for character in begun:
        if character.isspace():
            continue
        while place < len(text) and text[place].isspace():
            place += 1
        if place == len(text) or text[place] != character:
            return None
        place += 1
    return place
