"""A recorder to which trackers listen."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from upslope.model.policy import Policy
from upslope.record.checkpoint import Checkpoint
from upslope.record.journal import plain
from upslope.record.recorder import Recorder, Row, Snapshot
from upslope.record.trackers.base import ShownAttempt, TrackedRun, Tracker
from upslope.record.trackers.lines import line_of, shown_of
from upslope.record.trackers.mark import tracked_rows
from upslope.record.trackers.sender import Sender

LAST_SECONDS = 5.0
"""After the run's end, for all trackers together."""

MakeTracker = Callable[[str], Tracker]


class TrackedRecorder:
    """Does what the recorder inside does, and passes it on to trackers once it is kept. Satisfies ``Recorder``."""

    def __init__(self, inner: Recorder, names: Sequence[str], make: MakeTracker, say: Callable[[str], None]) -> None:
        """``make`` gives a tracker by its name; ``say`` tells whoever watches."""
        self.inner = inner
        self._names, self._make, self._say = names, make, say
        self.name, self.folder = inner.name, inner.folder
        self._process = os.getpid()
        self._senders: list[Sender] = []
        self._rows: list[Mapping[str, Any]] = []
        self._place = self._step = 0
        self._shown: dict[tuple[str, int], tuple[ShownAttempt, ...]] = {}

    def begin(self, document: Mapping[str, Any]) -> None:
        self.inner.begin(document)
        run = TrackedRun(self.name, self.folder, document)
        self._senders = [Sender(name, self._make(name), run, self._rows) for name in self._names]
        self._rows = []

    def add(self, row: Row) -> None:
        self.inner.add(row)
        if os.getpid() != self._process:  # a fork has no thread that would send anything
            return
        if tracked_rows([row]):
            line = line_of(plain(row), self._shown.pop((row["kind"], row["step"]), ()))
            for sender in self._senders:
                sender.put(self._place, line)
            self._place, self._step = self._place + 1, row["step"]
        self._tell()

    def add_attempts(self, kind: str, step: int, table: pa.Table) -> None:
        self.inner.add_attempts(kind, step, table)
        self._shown = {(kind, step): shown_of(table)}

    def rewind(self, step: int) -> list[Row]:
        rows = self.inner.rewind(step)
        kept = tracked_rows(list(rows))
        self._place = len(kept)
        if not self._senders:
            self._rows = kept
        return rows

    def close(self) -> None:
        """The run is over. Takes ``LAST_SECONDS`` at most."""
        if os.getpid() != self._process:
            return
        deadline = time.monotonic() + LAST_SECONDS
        for sender in self._senders:
            sender.end(deadline, LAST_SECONDS)
        self._tell()
        self._senders = []

    def _tell(self) -> None:
        for sender in self._senders:
            where, failure = sender.news()
            if where:
                self._say(f"{sender.name}: {where}")
            if failure:
                later = "" if self.folder is None else f"; the rest: upslope export {self.folder} --to {sender.name}"
                self._say(f"tracker {sender.name} is left alone, and the run goes on: {failure}{later}")
                with contextlib.suppress(OSError):  # a full disk is the run's to tell, at its own next line
                    self.inner.add({"kind": "tracker", "step": self._step, "tracker": sender.name, "cause": failure})

    # -- nothing that a tracker hears of ---------------------------------------------------------------------------

    def save(self, snapshot: Snapshot) -> None:
        self.inner.save(snapshot)

    def keep_best(self, step: int | None) -> None:
        self.inner.keep_best(step)

    def kept(self) -> list[int]:
        return self.inner.kept()

    def newest(self) -> Checkpoint | None:
        return self.inner.newest()

    def keep_reference(self, step: int, policy: Policy) -> None:
        self.inner.keep_reference(step, policy)

    def reference(self, step: int) -> Path | None:
        return self.inner.reference(step)

    def rows(self, kind: str) -> list[Row]:
        return self.inner.rows(kind)

    def attempts(self, kind: str, step: int) -> list[Row]:
        return self.inner.attempts(kind, step)
