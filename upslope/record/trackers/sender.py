"""A tracker fed from a thread of its own: however slow or broken it is, the run does not notice."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.record.trackers.base import TrackedLine, TrackedRun, Tracker
from upslope.record.trackers.feed import Feed

MOST_WAITING = 1000
"""Lines that wait for a tracker before it counts as hanging: some tens of megabytes at worst."""
LONGEST_WORDS = 300
"""Characters that are quoted of a failure."""


class Sender:
    """Everything here but ``_work`` is called from the run's thread, and returns at once; ``end`` waits until a
    deadline. A tracker that failed, or has fallen ``MOST_WAITING`` lines behind, is sent nothing more: what it has is
    then the first part of the journal, and an export later sends the rest."""

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun, rows: Sequence[Mapping[str, Any]]) -> None:
        """``rows``: the journal's so far."""
        self.name = name
        self._feed, self._rows = Feed(name, tracker, run), rows
        self._lines: queue.Queue[tuple[int, TrackedLine] | None] = queue.Queue(MOST_WAITING)
        self._where = self._failure = ""
        self._given_up = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, place: int, line: TrackedLine) -> None:
        """Have the line sent, which is at this place of the journal."""
        if self._given_up or self._failure:
            return
        try:
            self._lines.put_nowait((place, line))
        except queue.Full:
            self._give_up(f"it is {MOST_WAITING:,} lines behind")

    def news(self) -> tuple[str, str]:
        """(how to look at it, why it is not sent anything more), each told once; empty: there is nothing to tell."""
        where, self._where = self._where, ""
        if self._failure and not self._given_up:
            self._given_up = True
            return where, self._failure
        return where, ""

    def end(self, deadline: float, limit: float) -> None:
        """There is nothing more to send; wait for the rest until ``deadline`` on ``time.monotonic``. ``limit`` seconds
        are what is told of it."""
        while not self._done.is_set() and time.monotonic() < deadline:
            try:
                self._lines.put(None, timeout=max(0.0, min(0.1, deadline - time.monotonic())))
                break
            except queue.Full:
                pass
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            self._give_up(f"it was not done {limit:g} s after the run's end")

    def _give_up(self, why: str) -> None:
        """Tell it with the next news, and have the thread do nothing more, if ever it comes back."""
        if not self._failure and not self._given_up:
            self._failure = why

    def _wanted(self) -> bool:
        return not self._failure

    def _work(self) -> None:
        try:
            self._where = self._feed.open(self._rows, self._wanted).where
            self._rows = ()
            while self._wanted():
                found = self._lines.get()
                if found is None:
                    self._feed.close()
                    break
                self._feed.send(*found)
        except BaseException as error:  # a tracker may do anything, sys.exit too: it ends this thread and no more
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self._give_up(words[:LONGEST_WORDS])
        finally:
            self._done.set()
