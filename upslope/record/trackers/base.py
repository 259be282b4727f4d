"""What a tracker is, and what it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PROJECT = "upslope"
"""Under which trackers file runs, unless their own variables in the environment say otherwise."""


@dataclass(frozen=True)
class TrackedRun:
    """The run, as a tracker is told of it.

    >>> TrackedRun("toy", None, {"steps": 3}).name
    'toy'
    """

    name: str
    folder: Path | None
    """Where its records lie; None: in memory."""
    document: Mapping[str, Any]
    """What run.toml says."""


@dataclass(frozen=True)
class ShownAttempt:
    """One attempt, cut to what can be read.

    >>> ShownAttempt("1 + 1 = ?", "2", 1.0).reward
    1.0
    """

    prompt: str
    text: str
    reward: float | None
    """None: of a text that nobody scores."""


@dataclass(frozen=True)
class TrackedLine:
    """One line of the journal: a step's or an evaluation's.

    >>> TrackedLine("step", 0, {"outcome/reward": 0.5}).kind
    'step'
    """

    kind: str
    step: int
    numbers: Mapping[str, float]
    """By ``GROUP/KEY``: ``upslope.record.columns``."""
    shown: tuple[ShownAttempt, ...] = ()


@dataclass(frozen=True)
class Opened:
    """What a tracker says when it is open.

    >>> Opened("abc", None, "see it with: wandb sync x").forgot is None
    True
    """

    id: str
    """What it calls the run; the next session is given it."""
    forgot: int | None
    """It has nothing from this turn of the loop on; 0: nothing at all; None: it has all that it was ever sent."""
    where: str
    """How to look at it, for people."""


class Tracker(Protocol):
    """Calls come from one thread: ``open``, ``send`` any number of times, ``close``. Any of them may raise."""

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        """Begin (``id`` empty), or go on with the run that has this id. ``since``: the run was set back to the
        beginning of this turn of the loop, so what is there from it on should go, if that can be; None: it was not."""
        ...

    def send(self, line: TrackedLine) -> None:
        """Numbers and attempts of a line, so that they outlast a kill as far as the tracker allows."""
        ...

    def close(self) -> None:
        """All was sent."""
        ...
