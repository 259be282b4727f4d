"""The trackers that there are, and whether their packages are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from upslope.errors import UserError
from upslope.record.trackers.base import Tracker

TRACKER_NAMES = ("trackio", "tensorboard", "wandb")
"""Each is the name of its package, and of the extra of upslope that installs it."""


def require_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that is not installed."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, such as trackers make, is no package
            raise UserError(f"tracker {name} is not installed: pip install 'upslope[{name}]', or leave it out of track")


def require_place(names: Sequence[str], folder: Path | None) -> None:
    """Raise UserError for a tracker that writes into the run's folder where there is none."""
    if "tensorboard" in names and folder is None:
        raise UserError("track: tensorboard's files go into the run's folder, and this run keeps none; give folder=")


def tracker_of(name: str) -> Tracker:
    """A tracker by its name; nothing of its package is imported before it is opened."""
    if name == "tensorboard":
        from upslope.record.trackers.to_tensorboard import TensorBoardTracker

        return TensorBoardTracker()
    if name == "trackio":
        from upslope.record.trackers.to_trackio import TrackioTracker

        return TrackioTracker()
    from upslope.record.trackers.to_wandb import WandbTracker

    return WandbTracker()
