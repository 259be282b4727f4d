"""Who waits for whom, and since when: a thread that asks every process for a sign of life."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from upslope.cluster.crew import Member, end, reason

EVERY = 1.0
"""Seconds between two rounds."""


class Watchdog:
    """Asks all ``members`` in turn, in a thread of its own.

    One that has not got on with what it is doing for ``patience`` seconds, or does not answer for as long, hangs: it is
    named, and ended, so that whoever waits for it goes on. One that is no more is named with what ended it.
    """

    def __init__(self, members: Callable[[], Sequence[Member]], patience: float) -> None:
        self._members, self._patience = members, patience
        self._silent: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _go_round(self) -> None:
        while not self._over.wait(EVERY):
            for member in self._members():
                if not member.ended and not self._over.is_set():
                    self.look(member)

    def look(self, member: Member) -> None:
        """Ask one of them now; ``member.ended`` says what became of it."""
        try:
            if member.work is not None and ray.wait([member.work], timeout=0)[0]:
                ray.get(member.work)  # raises what it raised; a process that died raises below as well
            sign = member.sign = ray.get(member.actor.sign.remote(), timeout=EVERY)
        except GetTimeoutError:
            silent = self._silent[member.role] = self._silent.get(member.role, 0.0) + 2 * EVERY
            if silent > self._patience:
                self._end(member, f"does not answer, for {silent:.0f} s")
            return
        except RayActorError as error:
            if not self._over.is_set():
                member.ended = f"died: {reason(error)}"
            return
        except RayTaskError as error:
            self._end(member, f"failed: {reason(error)}")
            return
        self._silent.pop(member.role, None)
        if sign.doing and sign.quiet > self._patience:
            self._end(member, f"has not got on with {sign.doing} for {sign.quiet:.0f} s")

    def _end(self, member: Member, why: str) -> None:
        member.ended = why
        with contextlib.suppress(Exception):  # it may be gone by now
            end(member.actor)
