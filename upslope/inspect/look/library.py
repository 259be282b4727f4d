"""All runs that can be looked at, opened once and read on as they grow."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from upslope.errors import UserError
from upslope.inspect.reading.opened import OpenRun
from upslope.inspect.reading.places import places

ANEW = 2.0
"""Seconds after which folders are looked through for new runs."""


class Library:
    """The runs at and below some folders, by name. New ones are found as they come; those that are gone, go."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = list(roots)
        self._lock = threading.Lock()
        self._runs: dict[str, OpenRun] = {}
        self._looked = -math.inf

    def runs(self) -> list[OpenRun]:
        """All of them, each read on."""
        with self._lock:
            if time.monotonic() - self._looked > ANEW:
                found = places(self._roots)
                known = {run.place: run for run in self._runs.values()}
                self._runs = {name: known.get(place) or OpenRun.at(place) for name, place in found.items()}
                self._looked = time.monotonic()
            runs = list(self._runs.values())
        for run in runs:
            run.tail.refresh()
        return runs

    def run(self, name: str) -> OpenRun:
        """The run of this name, read on. Raises UserError if there is none."""
        found = self._runs.get(name)
        if found is None:
            found = {run.place.name: run for run in self.runs()}.get(name)
        if found is None:
            raise UserError(f"there is no run {name!r} in the folders that are looked at")
        found.tail.refresh()
        return found
