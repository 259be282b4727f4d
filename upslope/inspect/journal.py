"""Reading ``journal.jsonl``: the one place that knows how a run's lines look from outside."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.errors import UserError

Row = Mapping[str, Any]
"""One line of the journal. Recipes add numeric keys of their own, so a row is a mapping read by ``number``."""


@dataclass(frozen=True)
class Journal:
    """A run's steps and evaluations, each in order of ``step``.

    A step's ``reward`` was earned by weights that had seen ``step`` updates; an evaluation's ``step`` counts the
    updates before it. So both may be drawn over the same axis.

    >>> Journal(steps=({"kind": "step", "step": 0, "reward": 0.5},), evals=()).column("reward")
    ([0.0], [0.5])
    """

    steps: tuple[Row, ...]
    evals: tuple[Row, ...]

    def column(self, key: str) -> tuple[list[float], list[float]]:
        """The steps that have ``key``, and its values (NaN where it is no finite number)."""
        rows = [row for row in self.steps if key in row]
        values = [number(row, key) for row in rows]
        return [number(row, "step") for row in rows], [v if math.isfinite(v) else math.nan for v in values]


def read_journal(folder: Path) -> Journal:
    """Read ``folder/journal.jsonl``.

    A run that was killed while writing leaves a last line without its newline: that one is skipped. Anything else
    that does not parse is a UserError with file and row. Where a resumed run did a step again, the later line holds.
    Lines of an unknown kind are left out, so that old readers can read newer runs.
    """
    path = Path(folder) / "journal.jsonl"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        reason = "there is no such run folder" if not Path(folder).is_dir() else error.strerror
        raise UserError(f"{path}: cannot read the journal: {reason}") from error
    kinds: dict[str, dict[int, Row]] = {"step": {}, "eval": {}}
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            if place == len(lines):  # no newline came after it: half-written
                break
            raise UserError(f"{path}, row {place}: {error}; mend or remove this line") from error
        if row["kind"] in kinds:
            kinds[row["kind"]][row["step"]] = row
    steps, evals = (tuple(rows[step] for step in sorted(rows)) for rows in kinds.values())
    return Journal(steps, evals)


def number(row: Row, *keys: str) -> float:
    """The number at ``row[key][key]...``; NaN where there is none.

    >>> number({"greedy": {"value": 0.41}}, "greedy", "value"), number({"loss": None}, "loss")
    (0.41, nan)
    """
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan


def only_imitates(steps: Iterable[Row]) -> bool:
    """True where every reward is 1: demonstrations or kept successes, so that the loss is what tells something."""
    rewards = [number(row, "reward") for row in steps]
    return bool(rewards) and all(reward == 1.0 for reward in rewards)


def _parse(line: bytes) -> Row:
    """One line as a row with a ``kind`` and a whole ``step``, or ValueError (bad JSON and bad UTF-8 are such)."""
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise ValueError('not an object with a "kind"')
    if type(row.get("step")) is not int and row["kind"] in ("step", "eval"):
        raise ValueError('"step" is not a whole number')
    return row
