"""A journal sent to a tracker, each line once, whatever was sent before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from upslope.record.trackers.base import Opened, TrackedLine, TrackedRun, Tracker
from upslope.record.trackers.lines import line_of, shown_in
from upslope.record.trackers.mark import SentMark, read_mark, write_mark


class Feed:
    """One tracker's run. ``open`` first; all that follows comes from the same thread."""

    def __init__(self, name: str, tracker: Tracker, run: TrackedRun) -> None:
        self.name, self._tracker, self._run = name, tracker, run
        self._mark = SentMark()
        self._repeats = {"step": -1, "eval": -1}
        """What was sent once already and cannot be taken back is not sent again up to there."""

    def lacks(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the tracker has not all of these rows, or has others as well."""
        mark = read_mark(self._run.folder, self.name)
        return mark.lines < len(rows) or mark.since is not None

    def open(self, rows: Sequence[Mapping[str, Any]], wanted: Callable[[], bool] = lambda: True) -> Opened:
        """Go on from where the last session ended: ``rows`` are the journal's, of steps and evaluations, and what is
        missing of them is sent now, as long as it is ``wanted``."""
        before = read_mark(self._run.folder, self.name)
        opened = self._tracker.open(self._run, before.id, before.since if before.id else None)
        mark = replace(before, id=opened.id) if opened.id == before.id else SentMark(opened.id)
        if opened.forgot is not None:
            left = sum(row["step"] < opened.forgot for row in rows)
            mark = replace(mark, lines=min(mark.lines, left), step=-1, eval=-1, since=None)
        else:
            # An evaluation of the newest step may be made again with more attempts; only where the run was set back is
            # it the same one.
            self._repeats = {"step": mark.step, "eval": mark.eval - (mark.since is None)}
        self._keep(mark)
        for place, row in enumerate(rows):
            if place >= self._mark.lines and wanted():
                self.send(place, line_of(row, shown_in(self._run.folder, row["kind"], row["step"])))
        return opened

    def send(self, place: int, line: TrackedLine) -> None:
        """The line at this ``place`` of the journal, unless the tracker has it."""
        before = self._mark
        if place < before.lines:
            return
        mark = replace(before, lines=place + 1)
        if line.step <= self._repeats[line.kind]:
            self._keep(mark)
            return
        if line.kind == "step":
            mark = replace(mark, step=max(mark.step, line.step))
        else:
            mark = replace(mark, eval=max(mark.eval, line.step))
        self._keep(mark)  # first, so that a kill between the two costs a line and doubles none
        try:
            self._tracker.send(line)
        except BaseException:
            self._keep(before)
            raise

    def close(self) -> None:
        self._tracker.close()

    def _keep(self, mark: SentMark) -> None:
        self._mark = mark
        write_mark(self._run.folder, self.name, mark)
