"""A run's diagnosis, kept: made anew where the run has grown, and no more often than it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from upslope.inspect.reading.opened import OpenRun
from upslope.inspect.reading.places import RunPlace
from upslope.inspect.why.diagnosis import diagnose
from upslope.inspect.why.finding import Diagnosis

SHARE_OF_TIME = 0.01
"""Of a run that trains, for looking at it: a judgement that took 20 ms is followed by two seconds without one."""


class StandingDiagnosis:
    """What is wrong with a run, the likeliest cause first, as of the last time it was judged."""

    def __init__(self, run: OpenRun, clock: Callable[[], float] = time.perf_counter) -> None:
        self.run, self._clock = run, clock
        self._judged_at = -1  # of ``Tail.num_news``
        self._not_before = 0.0
        self._found: list[Diagnosis] = []

    @staticmethod
    def at(folder: Path) -> StandingDiagnosis:
        return StandingDiagnosis(OpenRun.at(RunPlace(folder.name, folder)))

    def found(self, *, patient: bool = False) -> list[Diagnosis]:
        """Judged anew if the run has grown since. ``patient``: only where the last judgement was so long ago that all
        of them take ``SHARE_OF_TIME`` at most; the journal is not even read on before."""
        begun = self._clock()
        if patient and begun < self._not_before:
            return self._found
        tail = self.run.tail
        with tail.lock:
            tail.refresh()
            if tail.num_news != self._judged_at:
                self._found, self._judged_at = diagnose(self.run), tail.num_news
        ended = self._clock()
        self._not_before = ended + (ended - begun) / SHARE_OF_TIME
        return self._found
