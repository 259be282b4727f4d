"""Trackio: a database of its own on this machine (``TRACKIO_DIR``), or wherever its own variables lead."""

from __future__ import annotations

import os
import uuid
from typing import Any

from upslope.record.trackers.base import PROJECT, Opened, ShownAttempt, TrackedLine, TrackedRun


class TrackioTracker:
    """A ``Tracker``. It keeps no way to delete single steps, so after a run was set back its whole run is deleted and
    sent anew; of a run on a server, which this machine cannot delete, all that was sent stays."""

    def __init__(self) -> None:
        self._run: Any = None

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        import trackio

        project = PROJECT
        there = _runs_of(trackio, project)
        ours = next((found for found in there if found.id == id), None)
        remote = bool(os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL"))
        if ours is not None and since is not None and not remote:
            ours.delete()
            there = [found for found in there if found is not ours]
        goes_on = bool(id) and (remote or ours in there)
        name = run.name if ours is None else ours.name
        if not goes_on and any(found.name == name for found in there):
            name = f"{name}-{uuid.uuid4().hex[:6]}"  # another folder's run, and trackio goes on by name
        self._run = trackio.init(
            project=project,
            name=name,
            config=dict(run.document),
            resume="allow" if goes_on else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        if goes_on and not remote and self._run.id != id:
            raise RuntimeError(f"trackio has another run of the name {name}, newer than the one of this folder")
        return Opened(self._run.id, None if goes_on else 0, f"trackio show --project {project}")

    def send(self, line: TrackedLine) -> None:
        import trackio

        sent: dict[str, Any] = dict(line.numbers)
        for place, attempt in enumerate(line.shown):
            sent[f"attempts/{line.kind}/{place}"] = trackio.Trace(_messages(attempt), _about(attempt))
        self._run.log(sent, step=line.step)

    def close(self) -> None:
        self._run.finish()


def _runs_of(trackio: Any, project: str) -> list[Any]:
    try:
        return list(trackio.Api().runs(project))
    except ValueError:  # there is no such project yet
        return []


def _messages(attempt: ShownAttempt) -> list[dict[str, Any]]:
    return [{"role": "user", "content": attempt.prompt}, {"role": "assistant", "content": attempt.text}]


def _about(attempt: ShownAttempt) -> dict[str, Any]:
    return {} if attempt.reward is None else {"reward": attempt.reward}
