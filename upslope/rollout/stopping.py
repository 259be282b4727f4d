"""Stop strings: texts that end an attempt (``Sampling.stop``), found in what a reward will read."""

from __future__ import annotations

from collections.abc import Sequence

from upslope.model.renderer import Renderer
from upslope.rollout.listener import BROKEN
from upslope.types import Rollout, Sampling


class StopStrings:
    """Finds the token with which one of the texts is complete.

    The text is the renderer's, which leaves special tokens out; a stop string that is a special token ends an attempt
    by that token.
    """

    def __init__(self, stops: Sequence[str], renderer: Renderer) -> None:
        self._stops, self._renderer = tuple(stops), renderer
        self._lasts = {stop[-1] for stop in stops}
        self._texts: dict[int, str] = {}
        known = getattr(getattr(renderer, "tokenizer", None), "added_tokens_decoder", {}) if stops else {}
        self._ids = {number for number, token in known.items() if token.special and token.content in stops}

    def __bool__(self) -> bool:
        return bool(self._stops)

    def may_end(self, token: int) -> bool:
        """Whether a stop string can end within this token, as far as the token alone can tell: of one that holds a
        part of a character nothing is known, and the space before a word may be there in a text alone."""
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self._renderer.text((token,))
        return token in self._ids or BROKEN in text or " " in self._lasts or not self._lasts.isdisjoint(text)

    def ends(self, response: Sequence[int]) -> bool:
        """Whether the newest token completes a stop string."""
        return response[-1] in self._ids or (self.may_end(response[-1]) and self._end(response) is not None)

    def cut(self, response: Sequence[int]) -> str:
        """The text of a response that ended so: without what the newest token says beyond the stop string."""
        return self._renderer.text(response)[: self._end(response)]

    def _end(self, response: Sequence[int]) -> int | None:
        """Where the first stop string that the newest token completes ends in the text, in characters."""
        text = self._renderer.text(response)
        known = len(self._renderer.text(response[:-1]).rstrip(BROKEN))
        found = [(text.find(stop, max(0, known + 1 - len(stop))), len(stop)) for stop in self._stops]
        return min((begin + length for begin, length in found if begin >= 0), default=None)


def text_read(renderer: Renderer, rollout: Rollout, sampling: Sampling) -> str:
    """What a reward reads of a rollout that was drawn so."""
    if rollout.ended == "stop_string":
        return StopStrings(sampling.stop, renderer).cut(rollout.response)
    return renderer.text(rollout.response)
