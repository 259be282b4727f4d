"""Weights & Biases: into the run's folder and to nobody, unless ``WANDB_MODE`` says otherwise."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from upslope.record.trackers.base import PROJECT, Opened, TrackedLine, TrackedRun

ONLINE = ("online", "shared")
FINISH_SECONDS = 4.0
"""What wandb may take for what is still to be uploaded, at the run's end and again when the process ends."""


class WandbTracker:
    """A ``Tracker``. What was uploaded cannot be taken back: of a step that is made again the first making stays. What
    lies in the run's folder can, as long as it was not uploaded."""

    def __init__(self) -> None:
        self._wandb: Any = None
        self._run: Any = None

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        import wandb

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        where = "online" if mode in ONLINE else "offline"
        # A run that is partly here and partly there would be whole nowhere: each has its own.
        before = id.removeprefix(f"{where}:") if id.startswith(f"{where}:") else ""
        if before and since is not None and where == "offline" and take_back(run.folder, before):
            before = ""
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=before or uuid.uuid4().hex[:12],
            resume="allow" if before else None,
            config=dict(run.document),
            dir=None if run.folder is None else str(run.folder),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                console="off",  # the terminal is the run's
                silent=True,
                disable_git=True,
                disable_code=True,
                finish_timeout=FINISH_SECONDS,
            ),
        )
        # Lines of evaluations and steps share their numbers, and wandb's own steps only grow: so a step is a column.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        look = self._run.url if where == "online" else f"wandb sync {self._run.settings.sync_dir}"
        return Opened(f"{where}:{self._run.id}", None if before else 0, str(look))

    def send(self, line: TrackedLine) -> None:
        sent: dict[str, Any] = {"step": line.step, **line.numbers}
        if line.shown:
            rows = [[line.step, attempt.prompt, attempt.text, attempt.reward] for attempt in line.shown]
            sent[f"attempts/{line.kind}"] = self._wandb.Table(["step", "prompt", "attempt", "reward"], rows)
        self._run.log(sent)

    def close(self) -> None:
        self._run.finish()


def take_back(folder: Path | None, id: str) -> bool:
    """Delete what lies in a run's folder of wandb's run ``id``, unless some of it was uploaded. Whether it is gone."""
    found = [] if folder is None else sorted((folder / "wandb").glob(f"offline-run-*-{id}"))
    if not found or any(place.is_symlink() or list(place.glob("*.synced")) for place in found):
        return False
    for place in found:
        shutil.rmtree(place)
    return True
