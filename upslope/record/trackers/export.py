"""A run that exists, sent to trackers afterwards."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from upslope.errors import UserError
from upslope.record.claim import claimed, is_begun
from upslope.record.journal import read_lines
from upslope.record.names import RUN
from upslope.record.trackers.base import TrackedRun
from upslope.record.trackers.feed import Feed
from upslope.record.trackers.known import require_trackers, tracker_of
from upslope.record.trackers.mark import tracked_rows
from upslope.record.trackers.recorder import MakeTracker


def export_run(folder: Path, names: Sequence[str], make: MakeTracker = tracker_of) -> Iterator[str]:
    """Send to each tracker what it does not have of the run yet: how to look at it, or that it has all, a line each.

    Raises UserError for a folder without a run, or one where a run is at work, and for a tracker that fails.
    """
    if not is_begun(folder):
        raise UserError(f"{folder} holds no run; give a run's folder")
    require_trackers(names)
    with claimed(folder, resume=True):
        try:
            document = tomllib.loads((folder / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{folder / RUN} cannot be read: {error}") from error
        rows = tracked_rows(read_lines(folder))
        for name in names:
            feed = Feed(name, make(name), TrackedRun(folder.resolve().name, folder, document))
            if not feed.lacks(rows):
                yield f"{name}: has all of it"
                continue
            try:
                opened = feed.open(rows)
                feed.close()
            except UserError:
                raise
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                raise UserError(f"{name}: {words:.300}; the same command sends the rest") from error
            yield f"{name}: {opened.where}"
