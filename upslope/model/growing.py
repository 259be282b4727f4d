"""A response as text while it grows, and the stop at which it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from upslope.model.pieces import UNREADABLE

Read = Callable[[Sequence[int]], str]
"""Tokens as text, as ``Renderer.text``."""


class GrowingText:
    """Tokens one by one, and after each the text that is sure to stay: no half characters, and nothing that may turn
    out to be the beginning of one of ``stops``. With a stop the text ends before it.

    >>> grown = GrowingText(lambda ids: "".join(chr(i) for i in ids), stops=("END",))
    >>> [grown.add(ord(c)) for c in "aE-EN"], grown.add(ord("D")), grown.stopped, grown.rest()
    (['a', '', 'E-', '', ''], '', True, '')
    """

    def __init__(self, read: Read, stops: Sequence[str] = ()) -> None:
        self._read, self._stops = read, tuple(stops)
        self._near: list[int] = []
        """The newest tokens: some whose text is known, for what stands beside them, then those still to be read."""
        self._num_read = 0
        self._held = ""
        """Text that may be the beginning of a stop."""
        self.stopped = False

    def add(self, token: int) -> str:
        """What the text grows by."""
        self._near.append(token)
        now, before = self._read(self._near), self._read(self._near[: self._num_read])
        if len(now) <= len(before) or now.endswith(UNREADABLE):
            return ""
        self._near = self._near[self._num_read :]
        self._num_read = len(self._near)
        return self._released(now[len(before) :], last=False)

    def rest(self) -> str:
        """What was held back, where nothing more comes."""
        now, before = self._read(self._near), self._read(self._near[: self._num_read])
        self._near, self._num_read = [], 0
        return self._released(now[len(before) :], last=True)

    def _released(self, new: str, *, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [place for place in map(text.find, self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        num_held = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    most = min(len(text), len(stop) - 1)
    return next((num for num in range(most, 0, -1) if stop.startswith(text[len(text) - num :])), 0)
