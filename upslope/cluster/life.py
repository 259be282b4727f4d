"""Signs of life: what a process does, and since when it has done no more of it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

START = 300.0
"""Seconds that a process may take to begin: to be placed, to import torch, to open a model, to meet the others."""


@dataclass(frozen=True)
class SignOfLife:
    """What a process said of itself."""

    pid: int
    host: str
    doing: str
    """Empty: it waits, for work or for others."""
    quiet: float
    """Seconds since it got on with that."""
    gpu: str = ""
    """Which one it was given, by its number on that machine; empty: none."""
    machine: str = ""
    """Where it is, as ``lost_machines`` names it."""


class Life:
    """What this process is doing; read by a thread that answers, written by the one that works."""

    def __init__(self, gpu: str = "", machine: str = "") -> None:
        self._gpu, self._machine = gpu, machine
        self._doing, self._since = "", time.monotonic()
        self._lock = threading.Lock()

    def beat(self, doing: str | None = None) -> None:
        """It got on, perhaps with something else; "" once it waits."""
        with self._lock:
            self._since = time.monotonic()
            if doing is not None:
                self._doing = doing

    @contextmanager
    def at(self, doing: str) -> Iterator[None]:
        """It does this meanwhile, and what it did before afterwards."""
        before = self._doing
        self.beat(doing)
        try:
            yield
        finally:
            self.beat(before)

    def sign(self) -> SignOfLife:
        """Now."""
        with self._lock:
            quiet = time.monotonic() - self._since
            return SignOfLife(os.getpid(), socket.gethostname(), self._doing, quiet, self._gpu, self._machine)
