"""The run's diary: one JSON object a line, on the disk before the next step begins."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.train.files import write_whole


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line. A number that is not finite is written as null: JSON has no NaN."""
    line = json.dumps(_plain(row), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def rewind(path: Path, step: int) -> list[dict[str, Any]]:
    """Forget everything after update number ``step``, and a last line that was cut in half, before a run resumes;
    returns the rows that stay.

    Raises UserError for any other line that cannot be read: a journal without one of its steps would be no journal.
    """
    kept, rows = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            # An evaluation is labelled by the updates before it, a step by its own number.
            keep = row["step"] <= step if row["kind"] == "eval" else row["step"] < step
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # no newline follows: it was never finished
                continue
            raise UserError(f"{path}, row {number}: not a line of a journal; remove it to resume") from None
        if keep:
            kept.append(line + b"\n")
            rows.append(row)
    write_whole(path, b"".join(kept))
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
