"""A journal that is read as it grows: the numbers of its steps by column, its evaluations as rows."""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from upslope.record.columns import numbers_in
from upslope.record.journal import JournalRow

CHUNK = 1 << 22
"""Bytes that are read at once: a journal of gigabytes is never held whole."""
MOST_STEPS = 2**63
"""Beyond it no number is a step's: ``Tail.steps`` cannot hold it."""


class Tail:
    """What a run's journal says so far. ``refresh`` reads what was added since, or all of it where the file was written
    anew (a run that was resumed). A line that cannot be read is passed over, and ``trouble`` says which was the first.
    Whoever asks for more than one thing holds ``lock`` meanwhile: another thread may read on.

    Columns are flat: ``seconds.update`` is ``row["seconds"]["update"]``. What is missing or no finite number is NaN.
    """

    def __init__(self, journal: Callable[[], Path | None]) -> None:
        """``journal`` says where the file is, None: there is none that may be read."""
        self._journal = journal
        self.lock = threading.RLock()
        self.num_news = 0
        """How often there was anything new."""
        self._forget()

    def _forget(self) -> None:
        self.steps = array("q")
        self.columns: dict[str, array[float]] = {}
        self.evals: dict[int, JournalRow] = {}
        self.notes: list[JournalRow] = []
        """Rows of other kinds: how it ended, what changed when it was resumed."""
        self.trouble = ""
        self._place: dict[int, int] = {}
        self._file, self._read, self._lines, self._rest = 0, 0, 0, b""

    def refresh(self) -> bool:
        """Read on; whether there was anything new."""
        with self.lock:
            is_new = self._refresh()
            self.num_news += is_new
            return is_new

    def _refresh(self) -> bool:
        path = self._journal()
        if path is None:
            gone = bool(self.steps or self.evals)
            self._forget()
            self.trouble = "there is no journal yet"
            return gone
        try:
            return self._read_on(path)
        except OSError as error:
            self.trouble = f"the journal cannot be read: {error.strerror}"
            return False

    def _read_on(self, path: Path) -> bool:
        state = path.stat()
        if state.st_ino != self._file or state.st_size < self._read:
            self._forget()
            self._file = state.st_ino
        if state.st_size == self._read:
            return False
        for line in self._new_lines(path):
            self._lines += 1
            self._take(line)
        return True

    def column(self, key: str) -> array[float]:
        """A value a step, in the order of ``steps``, as a copy; all NaN where no step has it."""
        with self.lock:
            found = self.columns.get(key)
            return array("d", [math.nan]) * len(self.steps) if found is None else found[:]

    def named(self) -> list[str]:
        """All columns that there are."""
        with self.lock:
            return list(self.columns)

    def row(self, place: int) -> dict[str, float]:
        """The numbers of one step, by its place in ``steps``, without those that are missing."""
        with self.lock:
            found = {key: values[place] for key, values in self.columns.items()}
        return {key: value for key, value in found.items() if not math.isnan(value)}

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        """Whole lines; what stands behind the last newline waits for its own."""
        with path.open("rb") as file:
            file.seek(self._read)
            while piece := file.read(CHUNK):
                self._read += len(piece)
                *whole, self._rest = (self._rest + piece).split(b"\n")
                yield from whole

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line.decode())
            kind, step = row["kind"], row.get("step")
            is_of_step = type(step) is int and abs(step) < MOST_STEPS
            if not isinstance(kind, str) or (kind in ("step", "eval") and not is_of_step):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.trouble = self.trouble or f"row {self._lines} of the journal cannot be read"
            return
        if kind == "step":
            self._add_step(step, row)
        elif kind == "eval":
            self.evals[step] = row
        else:
            self.notes.append(row)

    def _add_step(self, step: int, row: JournalRow) -> None:
        place = self._place.get(step)
        if place is None:
            place = self._place[step] = len(self.steps)
            self.steps.append(step)
            for values in self.columns.values():
                values.append(math.nan)
        else:  # a resumed run did it again: the later line holds
            for values in self.columns.values():
                values[place] = math.nan
        for way, value in numbers_in(row):
            key = ".".join(way)
            if key not in self.columns:
                self.columns[key] = array("d", [math.nan]) * len(self.steps)
            self.columns[key][place] = value
