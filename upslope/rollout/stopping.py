"""Stop strings: texts that end an attempt (``Sampling.stop``), found in what a reward will read."""

from __future__ import annotations

from collections.abc import Sequence, Set

from upslope.model.pieces import UNREADABLE
from upslope.model.renderer import Renderer
from upslope.types import Rollout, Sampling


class TextOfToken(dict[int, str]):
    """Every token's text by itself, read once."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__()
        self.renderer = renderer

    def __missing__(self, token: int) -> str:
        self[token] = self.renderer.text((token,))
        return self[token]

    def may_end(self, token: int, lasts: Set[str]) -> bool:
        """Whether a text that ends with one of the characters ``lasts`` can end within this token, as far as the token
        alone can tell: of one that holds a part of a character (``UNREADABLE``) nothing is known, and the space before
        a word may be there in a text alone."""
        text = self[token]
        return UNREADABLE in text or " " in lasts or not lasts.isdisjoint(text)


def completed_stop(renderer: Renderer, response: Sequence[int], stops: Sequence[str]) -> tuple[str, int | None]:
    """(the text of a response, where in it the first of ``stops`` ends that its newest token completes, in characters);
    None: it completes none."""
    text = renderer.text(response)
    known = len(renderer.text(response[:-1]).rstrip(UNREADABLE))
    found = [(text.find(stop, max(0, known + 1 - len(stop))), len(stop)) for stop in stops]
    return text, min((begin + length for begin, length in found if begin >= 0), default=None)


class StopStrings:
    """Finds the token with which one of the texts is complete.

    The text is the renderer's, which leaves special tokens out; a stop string that is a special token ends an attempt
    by that token.
    """

    def __init__(self, stops: Sequence[str], renderer: Renderer) -> None:
        self._stops, self._renderer = tuple(stops), renderer
        self._lasts = {stop[-1] for stop in stops}
        self._texts = TextOfToken(renderer)
        known = getattr(getattr(renderer, "tokenizer", None), "added_tokens_decoder", {}) if stops else {}
        self._ids = {number for number, token in known.items() if token.special and token.content in stops}

    def __bool__(self) -> bool:
        return bool(self._stops)

    def may_end(self, token: int) -> bool:
        """Whether a stop string can end within this token, as far as the token alone can tell."""
        return token in self._ids or self._texts.may_end(token, self._lasts)

    def ends(self, response: Sequence[int]) -> bool:
        """Whether the newest token completes a stop string."""
        return response[-1] in self._ids or (
            self.may_end(response[-1]) and completed_stop(self._renderer, response, self._stops)[1] is not None
        )

    def cut(self, response: Sequence[int]) -> str:
        """The text of a response that ended so: without what the newest token says beyond the stop string."""
        text, end = completed_stop(self._renderer, response, self._stops)
        return text[:end]


def text_read(renderer: Renderer, rollout: Rollout, sampling: Sampling) -> str:
    """What a reward reads of a rollout that was drawn so."""
    if rollout.ended == "stop_string":
        return StopStrings(sampling.stop, renderer).cut(rollout.response)
    return renderer.text(rollout.response)
