"""The run's journal: one JSON object a line, on the disk before the next step begins. Writing and reading it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.files import write_whole

JOURNAL = "journal.jsonl"

LARGEST = 1e300
"""Beyond it no number of a run is one, and a difference of two would have no end."""

LOSSES = {"held_out_loss": "held-out loss", "bits_per_byte": "bits per byte"}
"""What an evaluation measures by predicting, with its name for people."""

JournalRow = Mapping[str, Any]
"""One line of the journal. Recipes add numeric keys of their own, so a row is a mapping read by ``number``."""


@dataclass(frozen=True)
class Journal:
    """A run's steps and evaluations, each in order of ``step``, and its last word if it ended early.

    A step's ``reward`` was earned by weights that had been through ``step`` turns of the loop; an evaluation's ``step``
    counts the turns before it. So both may be drawn over the same axis.

    >>> Journal(steps=({"kind": "step", "step": 0, "reward": 0.5},), evals=()).column("reward")
    ([0.0], [0.5])
    """

    steps: tuple[JournalRow, ...]
    evals: tuple[JournalRow, ...]
    end: JournalRow | None = None
    """Why it ended before its budget was spent: nothing was left to learn from. None where it did not."""

    def column(self, key: str) -> tuple[list[float], list[float]]:
        """The steps that have ``key``, and its values (NaN where it is no finite number)."""
        rows = [row for row in self.steps if key in row]
        values = [number(row, key) for row in rows]
        return [number(row, "step") for row in rows], [v if abs(v) <= LARGEST else math.nan for v in values]


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line. A number that is not finite is written as null: JSON has no NaN."""
    line = json.dumps(plain(row), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def rewind(path: Path, step: int) -> list[JournalRow]:
    """Forget everything after turn number ``step``, and a last line that was cut in half, before a run resumes;
    returns the rows that stay. No file is an empty journal.

    Raises UserError for any other line that cannot be read: a journal without one of its steps would be no journal.
    """
    # An evaluation is labelled by the turns before it, a step by its own number. Without one it is of no step.
    kept = [
        (line, row)
        for line, row in (_lines(path) if path.exists() else ())
        if "step" not in row or row["step"] < step + (row["kind"] == "eval")
    ]
    write_whole(path, b"".join(line + b"\n" for line, _ in kept))
    return [row for _, row in kept]


def plain(value: Any) -> Any:
    """What JSON can say of a row: numbers to nine digits, None for one that is not finite."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def read_journal(folder: Path) -> Journal:
    """Read ``folder/journal.jsonl``.

    A run that was killed while writing leaves a last line without its newline: that one is skipped. Anything else
    that does not parse is a UserError with file and row. Where a resumed run did a step again, the later line holds.
    Lines of an unknown kind are left out, so that old readers can read newer runs.
    """
    path = Path(folder) / JOURNAL
    kinds: dict[str, dict[int, JournalRow]] = {"step": {}, "eval": {}, "end": {}}
    try:
        for _, row in _lines(path):
            if row["kind"] in kinds:
                kinds[row["kind"]][row["step"]] = row
    except OSError as error:
        reason = "there is no such run folder" if not Path(folder).is_dir() else error.strerror
        raise UserError(f"{path}: cannot read the journal: {reason}") from error
    steps, evals, ends = (tuple(rows[step] for step in sorted(rows)) for rows in kinds.values())
    return Journal(steps, evals, ends[-1] if ends else None)


def read_lines(folder: Path) -> list[JournalRow]:
    """All lines of ``folder/journal.jsonl``, of every kind, as they stand there. Raises UserError as ``read_journal``
    does; no file is an empty journal."""
    path = Path(folder) / JOURNAL
    return [row for _, row in _lines(path)] if path.exists() else []


def _lines(path: Path) -> Iterator[tuple[bytes, JournalRow]]:
    """Every line of the file with its row, but for a last one that was cut in half: it lacks its newline and cannot be
    read. Raises UserError for any other that cannot be read, and OSError."""
    *whole, last = path.read_bytes().split(b"\n")
    for place, line in enumerate(whole, start=1):
        try:
            yield line, _parse(line)
        except ValueError as error:
            raise UserError(f"{path}, row {place}: {error}; mend or remove this line") from error
    try:
        row = _parse(last)
    except ValueError:
        return
    yield last, row


def number(row: JournalRow, *keys: str) -> float:
    """The number at ``row[key][key]...``; NaN where there is none.

    >>> number({"greedy": {"value": 0.41}}, "greedy", "value"), number({"loss": None}, "loss")
    (0.41, nan)
    """
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and (isinstance(found, float) or abs(found) <= LARGEST) else math.nan


def told_problems(row: JournalRow) -> str:
    """How many problems an evaluation took, and of how many where it did not take all; empty where it took none.

    >>> told_problems({"num_problems": 4, "num_held_out": 13}), told_problems({"num_problems": 13, "num_held_out": 13})
    ('4 of 13', '13')
    """
    num, there = number(row, "num_problems"), number(row, "num_held_out")
    num = num if math.isfinite(num) else number(row, "greedy", "num_problems")
    if not math.isfinite(num):
        return ""
    return f"{num:.0f} of {there:.0f}" if num < there else f"{num:.0f}"


def sample_of(row: JournalRow) -> tuple[str, str] | None:
    """(what it began with, how the policy went on) of an evaluation's sample of text; None where there is none.

    >>> sample_of({"sample": {"prompt": "Once", "text": " upon"}}), sample_of({"greedy": {}})
    (('Once', ' upon'), None)
    """
    found = row.get("sample")
    begun, text = (found.get(key) if isinstance(found, Mapping) else None for key in ("prompt", "text"))
    return (begun, text) if isinstance(begun, str) and isinstance(text, str) else None


def attempted(row: JournalRow) -> bool:
    """Whether an evaluation tried problems, and did not only predict or write text."""
    return "greedy" in row


def num_samples(row: JournalRow) -> int:
    """Attempts a problem of an evaluation; 0: greedy only."""
    tried = row.get("pass_at")
    return max((int(k) for k in tried if k.isdecimal()), default=0) if isinstance(tried, Mapping) else 0


def only_imitates(steps: Iterable[JournalRow]) -> bool:
    """True where every reward is 1: demonstrations or kept successes, so that the loss is what tells something."""
    rewards = [number(row, "reward") for row in steps]
    return bool(rewards) and all(reward == 1.0 for reward in rewards)


def _parse(line: bytes) -> JournalRow:
    """One line as a row with a ``kind`` and a whole ``step``, or ValueError (bad JSON and bad UTF-8 are such)."""
    try:
        row = json.loads(line.decode())  # of bytes, json would read UTF-16 too
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise ValueError('not an object with a "kind"')
    if type(row.get("step")) is not int and row["kind"] in ("step", "eval", "end"):
        raise ValueError('"step" is not a whole number')
    return row
