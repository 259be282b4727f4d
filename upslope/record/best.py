"""Which of a run's checkpoints is its best: a file in the run's folder names the step."""

from __future__ import annotations

import json
from pathlib import Path

from upslope.errors import UserError
from upslope.files import write_whole
from upslope.record.checkpoint import why_not_complete
from upslope.record.names import BEST_FILE


def mark(folder: Path, step: int | None) -> None:
    """The checkpoint after ``step`` steps is the best of the run in ``folder``; None: none is."""
    if step is None:
        (folder / BEST_FILE).unlink(missing_ok=True)
    else:
        write_whole(folder / BEST_FILE, json.dumps({"step": step}).encode())


def best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, complete or not; None: there is no mark."""
    try:
        return int(json.loads((folder / BEST_FILE).read_bytes())["step"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{folder / BEST_FILE} does not say a step; delete it to go on without the best") from None


def best_checkpoint(folder: Path) -> Path:
    """The run's best checkpoint. Raises UserError where it kept none, or it is not complete."""
    step = best_step(folder)
    if step is None:
        raise UserError(f"{folder} has marked no checkpoint as its best; train with save.best=true, or leave @best out")
    found = folder / "checkpoints" / f"step-{step:06d}"
    wrong = why_not_complete(found)
    if wrong:
        raise UserError(f"{found}, the best of its run: {wrong}")
    return found
