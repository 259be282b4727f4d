"""How far a run was sent to a tracker: a small file in the run's folder, so that nothing is sent twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from upslope.files import part_of
from upslope.record.names import MARK, TRACKERS


@dataclass(frozen=True)
class SentMark:
    """What a tracker has of a run.

    >>> SentMark("abc", lines=12, step=10, eval=10).set_back(to=6, lines=7)
    SentMark(id='abc', lines=7, step=10, eval=10, since=6)
    """

    id: str = ""
    """What the tracker calls the run; empty: it knows none."""
    lines: int = 0
    """Of the journal as it is now, how many lines (of steps and evaluations, from the first) it was sent."""
    step: int = -1
    """The furthest step that it was ever sent; -1: none."""
    eval: int = -1
    """The same of evaluations."""
    since: int | None = None
    """It also has lines that the journal has no more, from this turn of the loop on; None: it has none such."""

    def set_back(self, to: int, lines: int) -> SentMark:
        """After the journal was set back to the beginning of turn ``to``, and has so many lines now."""
        if self.lines <= lines:
            return self
        return replace(self, lines=lines, since=to if self.since is None else min(to, self.since))


def read_mark(folder: Path | None, name: str) -> SentMark:
    """The mark of a tracker in a run's folder; an empty one where there is none, or none that can be read."""
    if folder is None:
        return SentMark()
    try:
        found = json.loads((folder / TRACKERS / f"{name}.json").read_text(encoding="utf-8"))
        counts = (found["lines"], found["step"], found["eval"])
        whole = all(type(count) is int for count in counts) and type(found["since"]) in (int, type(None))
        return SentMark(**found) if whole and isinstance(found["id"], str) else SentMark()
    except (OSError, ValueError, TypeError, KeyError):
        return SentMark()


def write_mark(folder: Path | None, name: str, mark: SentMark) -> None:
    """Renamed into place, but not flushed: a power cut may cost a tracker a line, never the run."""
    if folder is None:
        return
    path = folder / TRACKERS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    part = part_of(path)
    part.write_text(json.dumps(asdict(mark)), encoding="utf-8")
    part.replace(path)


def set_marks_back(folder: Path, step: int, rows: list[Mapping[str, Any]]) -> None:
    """The journal was set back to the beginning of turn ``step`` and has these ``rows`` left: so whatever was sent
    beyond is to be forgotten, by whoever sends next."""
    lines = len(tracked_rows(rows))
    for path in sorted((folder / TRACKERS).glob("*.json")):
        if MARK.fullmatch(path.name):
            mark = read_mark(folder, path.stem)
            if mark != mark.set_back(step, lines):
                write_mark(folder, path.stem, mark.set_back(step, lines))


def tracked_rows(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of the journal's rows that trackers are sent: steps and evaluations."""
    return [row for row in rows if row["kind"] in ("step", "eval")]
