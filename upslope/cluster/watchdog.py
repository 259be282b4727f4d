"""Who waits for whom, and since when: a thread that asks every process for a sign of life."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from upslope.cluster.crew import WITH_MACHINE, Member, end, fate, reason
from upslope.cluster.life import SignOfLife
from upslope.cluster.machines import lost_machines

LEARNER = "learner"
"""How the roles begin of those who wait for one another within a step."""
EVERY = 1.0
"""Seconds between two rounds."""


class Watchdog:
    """Asks all ``members`` in turn, in a thread of its own.

    One that has not got on with what it is doing for ``patience`` seconds, or does not answer for as long, hangs: it is
    named, and ended, so that whoever waits for it goes on. One that is no more is named with what ended it. All are
    asked at the same time, so that many who are silent, as on a machine that is lost, are not named one after the
    other; nor is anybody waited for on a machine that Ray has lost.
    """

    def __init__(
        self,
        members: Callable[[], Sequence[Member]],
        patience: float,
        lost: Callable[[], frozenset[str]] = lost_machines,
    ) -> None:
        """``lost``: the machines that are no more."""
        self._members, self._patience, self._lost = members, patience, lost
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_round, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _go_round(self) -> None:
        while not self._over.wait(EVERY):
            with contextlib.suppress(Exception):  # a cluster that goes under may answer anything
                self.look_at_all()

    def look_at_all(self) -> None:
        """Ask everybody who lives now."""
        members = [member for member in self._members() if not member.ended and member.sign is not None]
        lost = self._lost()
        asked: list[tuple[Member, Any, Any]] = []
        for member in members:
            if member.sign is not None and member.sign.machine in lost:
                self._end(member, member.actor, WITH_MACHINE)
            else:
                asked.append((member, member.actor, member.actor.sign.remote()))
        until = time.monotonic() + EVERY
        stuck: list[tuple[Member, Any, SignOfLife]] = []
        for member, actor, call in asked:
            if self._over.is_set():
                return
            with contextlib.suppress(Exception):
                sign = self._take(member, actor, call, max(0.0, until - time.monotonic()))
                stuck += [(member, actor, sign)] if sign is not None else []
        # Learners that wait for one another within a pass say nothing either: who was quiet first is the cause.
        stuck.sort(key=lambda each: -each[2].quiet)
        first = next((member for member, _, _ in stuck if member.role.startswith(LEARNER)), None)
        for member, actor, sign in stuck:
            if member is first or not member.role.startswith(LEARNER):
                self._end_stuck(member, actor, sign)

    def look(self, member: Member) -> None:
        """Ask one of them now; ``member.ended`` says what became of it."""
        actor = member.actor
        sign = self._take(member, actor, actor.sign.remote(), EVERY)
        if sign is not None:
            self._end_stuck(member, actor, sign)

    def _take(self, member: Member, actor: Any, call: Any, patience: float) -> SignOfLife | None:
        """The answer to ``call``, which is waited for so many seconds, where it says that it does not get on."""
        try:
            if member.work is not None and ray.wait([member.work], timeout=0)[0]:
                ray.get(member.work)  # raises what it raised; a process that died raises below as well
            sign = ray.get(call, timeout=patience)
        except GetTimeoutError:
            now = time.monotonic()
            member.silent_since = member.silent_since or now
            if now - member.silent_since > self._patience:
                self._end(member, actor, f"does not answer, for {now - member.silent_since:.0f} s")
            return None
        except RayTaskError as error:
            self._end(member, actor, f"failed: {reason(error)}")
            return None
        except RayError as error:
            if not self._over.is_set():
                member.ends(actor, fate(member, error))
            return None
        member.answers(actor, sign)
        return sign if sign.doing and sign.quiet > self._patience else None

    def _end_stuck(self, member: Member, actor: Any, sign: SignOfLife) -> None:
        self._end(member, actor, f"has not got on with {sign.doing} for {sign.quiet:.0f} s")

    def _end(self, member: Member, actor: Any, why: str) -> None:
        member.ends(actor, why)
        end(actor)
