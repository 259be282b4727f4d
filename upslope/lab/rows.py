"""Work of hours in a file of rows, one JSON object a line: what is there is not done again, what was made otherwise is
refused, and one process writes at a time."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from upslope.errors import UserError
from upslope.model.digest import weights_digest
from upslope.model.policy import Policy
from upslope.plugins import source
from upslope.tasks.base import Task
from upslope.training.settings import RunSettings

Row = dict[str, Any]
Mark = Mapping[str, str]
"""What rows depend on, by its name; no file may mix several."""
BEGIN = b'{"id": '
"""Of every row."""


class RowFile:
    """A file of rows, held from ``with`` on: ``read`` what is there, then ``add``."""

    def __init__(self, path: Path, sound: Callable[[Row], bool], key: Callable[[Row], Hashable]) -> None:
        """``sound``: whether a row has all that is read of it; a KeyError or TypeError says no. ``key``: what no two
        rows share. Raises UserError for a path where no file can be, so that it is known before a model is loaded."""
        if path.is_dir() or not path.parent.is_dir():
            what = "is a folder" if path.is_dir() else f"cannot be made: there is no folder {path.parent}"
            raise UserError(f"{path} {what}; name a file")
        self.path, self._sound, self._key = path, sound, key
        self._lock = FileLock(str(path.with_name(f".{path.name}.lock")))
        self._mark: Mark = {}

    def __enter__(self) -> RowFile:
        """Raises UserError if another process has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process writes to {self.path}; wait for it, or choose another file") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.path.exists():
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        self._lock.release()

    def read(self, mark: Mark) -> list[Row]:
        """The rows that are there; a last one that was cut off is taken away. Raises UserError, and changes nothing,
        if one of them was made otherwise, is none, or is there twice."""
        self._mark = mark
        data = self.path.read_bytes() if self.path.exists() else b""
        *lines, tail = data.split(b"\n")
        rows = [self._row(line, number) for number, line in enumerate(lines, 1)]
        self._require_once(rows)
        if tail:
            self._require_half(tail, len(lines) + 1)
            with self.path.open("r+b") as file:
                file.truncate(len(data) - len(tail))
        return rows

    def add(self, row: Row) -> None:
        """Append a row, which begins with its ``id``; it is on its way to the disk when this returns."""
        line = json.dumps({key: as_json(value) for key, value in row.items()} | {"measured": self._mark})
        with self.path.open("a", encoding="ascii") as file:
            file.write(line + "\n")

    def _row(self, line: bytes, number: int) -> Row:
        try:
            row: Row = json.loads(line)
            made_with = dict(row["measured"])
        except (ValueError, TypeError, KeyError, RecursionError):
            self._foreign(number)
        differ = [name for name in {**self._mark, **made_with} if made_with.get(name) != self._mark.get(name)]
        if differ:
            raise UserError(
                f"{self.path} row {number} was made with another {' and '.join(differ)}; choose another file, or give "
                "what it was made with"
            )
        try:
            sound = self._sound(row)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            self._foreign(number)
        return row

    def _require_once(self, rows: Sequence[Row]) -> None:
        first: dict[Hashable, int] = {}
        for number, row in enumerate(rows, 1):
            before = first.setdefault(self._key(row), number)
            if before != number:
                raise UserError(f"{self.path} has row {before} again in row {number}; take one of them out")

    def _require_half(self, tail: bytes, number: int) -> None:
        """Raise UserError unless a line without its end can be the beginning of a row of ours. A power cut may leave
        zeros in the place of what was still to be written."""
        tail = tail.rstrip(b"\0")
        try:
            json.loads(tail)
        except (ValueError, RecursionError):
            if tail.startswith(BEGIN[: len(tail)]):
                return
        else:
            if b'"measured": {' in tail:
                return
        self._foreign(number)

    def _foreign(self, number: int) -> None:
        raise UserError(f"{self.path} row {number} is none of this command's; choose another file")


def mark_of(settings: RunSettings, task: Task, policy: Policy, **more: Any) -> Mark:
    """What attempts depend on besides their prompts. ``more``: what else a row does, by name."""
    sampling = replace(settings.sample.sampling(), temperature=settings.eval.temperature)
    told = {
        "precision": str(policy.model.dtype).removeprefix("torch."),
        "model": weights_digest(policy.model.state_dict())[:12],
        "seed": str(settings.seed),
        "sampling": short(sampling),
        "task": short([task.name, sorted(settings.task.options.items()), source(settings.task.name)]),
    }
    told |= {"stop strings": short(sampling.stop)} if sampling.stop else {}
    return told | {name: short(value) for name, value in more.items()}


def short(value: Any) -> str:
    """A hash of what a value looks like."""
    return hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest()[:12]


def as_json(value: Any) -> Any:
    """A cell as JSON can hold it: numbers that are none become null, what has no form there its text."""
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def is_count(value: Any) -> bool:
    """Whether a cell is a whole number, 0 or more."""
    return type(value) is int and value >= 0


def is_number(value: Any) -> bool:
    """Whether a cell is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))
