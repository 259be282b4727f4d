"""Where the seconds of a step go."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from upslope.lab.bench.ceiling import wait_for


class Clock:
    """Seconds by phase. Of phases inside each other a second counts to the innermost alone, so that phases add up."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._device, self._now = device, now
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

    def _turn(self) -> None:
        """Give the time since the last turn to the phase under way."""
        wait_for(self._device)
        now = self._now()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def watching(self, *calls: tuple[Any, str, str]) -> Iterator[None]:
        """Meanwhile every call of these (object, method) is a phase of that name."""
        for owner, method, phase in calls:
            setattr(owner, method, self._timed(getattr(owner, method), phase))
        try:
            yield
        finally:
            for owner, method, _ in calls:
                delattr(owner, method)  # the class's own comes to light again

    def _timed(self, inner: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(phase):
                return inner(*args, **kwargs)

        return timed
