"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from upslope.model.gauge import wait_for


class Clock:
    """Seconds by phase. Of phases inside each other a second counts to the innermost alone, so that phases add up."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._now = device, now
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def take(self) -> dict[str, float]:
        """The seconds of every phase since this was last asked, or since the beginning."""
        found, self._seconds = self._seconds, {}
        return found

    def _turn(self) -> None:
        """Give the time since the last turn to the phase under way."""
        wait_for(self._device)
        now = self._now()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now
