"""The run's diary: one JSON object a line, on the disk before the next step begins."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from upslope.train.files import write_whole


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line. A number that is not finite is written as null: JSON has no NaN."""
    line = json.dumps(_plain(row), allow_nan=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def rewind(path: Path, step: int) -> None:
    """Forget everything after update number ``step``, and a line that was cut in half, before a run resumes."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        # An evaluation is labelled by the updates before it, a step by its own number.
        if row["step"] <= step if row["kind"] == "eval" else row["step"] < step:
            kept.append(line + "\n")
    write_whole(path, "".join(kept).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value
