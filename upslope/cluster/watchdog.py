"""Who waits for whom, and since when: a thread that asks every process for a sign of life."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

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
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _go_round(self) -> None:
        while not self._over.wait(EVERY):
            for member in self._members():
                if not member.ended and member.sign is not None and not self._over.is_set():
                    with contextlib.suppress(Exception):  # a cluster that goes under may answer anything
                        self.look(member)

    def look(self, member: Member) -> None:
        """Ask one of them now; ``member.ended`` says what became of it."""
        actor = member.actor
        try:
            if member.work is not None and ray.wait([member.work], timeout=0)[0]:
                ray.get(member.work)  # raises what it raised; a process that died raises below as well
            sign = ray.get(actor.sign.remote(), timeout=EVERY)
        except GetTimeoutError:
            now = time.monotonic()
            member.silent_since = member.silent_since or now
            if now - member.silent_since > self._patience:
                self._end(member, actor, f"does not answer, for {now - member.silent_since:.0f} s")
            return
        except RayTaskError as error:
            self._end(member, actor, f"failed: {reason(error)}")
            return
        except RayError as error:
            if not self._over.is_set() and member.actor is actor:
                member.ended = f"died: {reason(error)}"
            return
        if member.actor is actor:
            member.sign, member.silent_since = sign, None
        if sign.doing and sign.quiet > self._patience:
            self._end(member, actor, f"has not got on with {sign.doing} for {sign.quiet:.0f} s")

    def _end(self, member: Member, actor: Any, why: str) -> None:
        if member.actor is actor:
            member.ended = why
        end(actor)
