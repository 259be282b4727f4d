"""What a stage that trains, or evaluates, is made of, and what it leaves: as hashes."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from upslope.record import checkpoint
from upslope.record.manifest import MANIFEST
from upslope.tasks.base import Task
from upslope.training.resuming import made_with
from upslope.training.settings import RunSettings
from upslope.training.tables import dotted

IRRELEVANT = (
    *("name", "out", "versions", "threads", "eval", "task.reward_workers", "task.data", "task.eval_data"),
    *("save.every", "save.keep", "save.rollouts"),
)
"""Settings that do not change the weights of a run. A new one counts until it is listed here. What the paths of the
data lead to is in ``reads_of``."""
_DATA = "the task's data"


def reads_of(settings: RunSettings, task: Task) -> dict[str, str]:
    """What a stage depends on besides its settings, by what it is: hashes of data, code, models and tokenizers;
    versions. What earlier stages of the pipeline leave is not among it: their own notes say that."""
    found = made_with(settings, task, None)
    found.setdefault(_DATA, f"{settings.task.data} {settings.task.eval_data}")  # where not all of it can be read
    for key, value in dotted(asdict(settings)):
        if key.rpartition(".")[2] in ("model", "tokenizer") and isinstance(value, str) and value:
            place = Path(value.removeprefix("new:"))
            if place.resolve().parent != Path(settings.out).resolve() and (content := content_of(place)):
                found[f"what {key} names"] = content
    return found


def content_of(model: Path) -> str:
    """A hash of a file, of the files of a directory, or of a run folder's newest checkpoint; empty for what is none.

    All bytes count: a model trained further under the same name is another one.
    """
    if not model.exists():
        return ""
    if (model / "checkpoints").is_dir():
        return end_of(model)
    digest = hashlib.sha256()
    files = model.iterdir() if model.is_dir() else [model]
    for file in sorted(path for path in files if path.is_file() and not path.name.startswith(".")):
        with file.open("rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def end_of(run: Path) -> str:
    """A hash of a run's newest whole checkpoint; empty if there is none."""
    found = checkpoint.newest(run / "checkpoints")
    if found is None:
        return ""
    return f"{found.step}-{hashlib.sha256((found.folder / MANIFEST).read_bytes()).hexdigest()[:16]}"
