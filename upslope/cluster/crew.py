"""Processes of one kind: started, asked for signs of life, replaced when one dies."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from upslope.cluster.life import START, SignOfLife
from upslope.cluster.machines import lost_machines
from upslope.errors import UserError

GROUPS = {"watch": 1}
"""A thread of its own answers for signs of life, whatever the one that works is doing."""
MOST_DEATHS = 3
"""Of processes over the same work, after which the run gives up."""

WITH_MACHINE = "died with its machine, which is lost"


@dataclass
class Member:
    """One process, seen from here."""

    role: str
    """``sampler 1``: what messages call it."""
    actor: Any
    sign: SignOfLife | None = None
    """The last one."""
    ended: str = ""
    """What ended it, as in ``died: ...``; empty: it lives."""
    work: Any = None
    """The call in which it does all it does, where there is one."""
    silent_since: float | None = None
    """When it was first asked for a sign of life without an answer; None: it answers."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def ends(self, actor: Any, why: str) -> None:
        """What ended ``actor``, unless another one stands in its place by now."""
        with self._lock:
            if self.actor is actor:
                self.ended = why

    def answers(self, actor: Any, sign: SignOfLife) -> None:
        """The sign of life of ``actor``, likewise."""
        with self._lock:
            if self.actor is actor:
                self.sign, self.silent_since = sign, None

    def begins(self, actor: Any) -> None:
        """``actor`` stands in its place, and is not ready yet."""
        with self._lock:
            self.actor, self.sign, self.ended, self.silent_since = actor, None, "", None

    @property
    def where(self) -> str:
        """``sampler 1 (process 312 on vm)``, or ``(process 312 on vm, GPU 2)``"""
        if self.sign is None:
            return self.role
        gpu = f", GPU {self.sign.gpu}" if self.sign.gpu else ""
        return f"{self.role} (process {self.sign.pid} on {self.sign.host}{gpu})"


class Crew:
    """``num`` processes that do the same."""

    def __init__(
        self, role: str, num: int, start: Callable[[], Any], say: Callable[[str], None], *, first: int = 0
    ) -> None:
        """``start`` starts one, and returns its handle before it is ready; their numbers begin with ``first``. Raises
        UserError if one does not begin."""
        self._start, self._say = start, say
        self._replacing, self._over = threading.Lock(), False
        self.members = [Member(f"{role} {number}", start()) for number in range(first, first + num)]
        for member in self.members:
            self._greet(member)
        say(", ".join(member.where for member in self.members))

    def replace(self, member: Member, gone: Any, why: str) -> None:
        """Another process in the place of ``gone``, an actor that is no more, unless another thread has seen to it.
        Raises UserError if it does not begin."""
        with self._replacing:
            if member.actor is gone and not self._over:
                self._put_another(member, why)

    def _put_another(self, member: Member, why: str) -> None:
        self._say(f"{member.where} {why}; another one takes its place, and does its work again")
        end(member.actor)
        member.begins(self._start())
        self._greet(member)
        self._say(member.where)

    def _greet(self, member: Member) -> None:
        try:
            member.sign = ray.get(member.actor.sign.remote(), timeout=START)
        except RayError as error:
            raise UserError(f"{member.role} did not begin{_for_want_of_room(error)}: {reason(error)}") from error
        member.ended, member.silent_since = "", None

    def end(self) -> None:
        """End all of them, and put nobody in their place."""
        self._over = True
        for member in self.members:
            end(member.actor)


def end(actor: Any) -> None:
    """End a process, whatever it is doing; it may be gone already, and the whole cluster with it."""
    with contextlib.suppress(Exception):
        ray.kill(actor)


def _for_want_of_room(error: RayError) -> str:
    """What the cluster has left, where nothing began in time."""
    if not isinstance(error, GetTimeoutError):
        return ""
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    left = {name: num for name, num in resources.items() if name in ("CPU", "GPU")}
    return f" within {START:.0f} s, and the cluster has {left or 'nothing'} left"


def fate(member: Member, error: BaseException) -> str:
    """What became of a process that died with this error."""
    with contextlib.suppress(Exception):  # a cluster that goes under may answer anything
        if member.sign is not None and member.sign.machine in lost_machines():
            return WITH_MACHINE
    return f"died: {reason(error)}"


def reason(error: BaseException) -> str:
    """What happened, of all that Ray says, in one line."""
    if isinstance(error, RayActorError):
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        if error.actor_init_failed and told:  # the last line of a traceback is what was raised
            return told[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        return "its process ended, killed (as for want of memory) or crashed"
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):
        return str(cause)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1]}" if lines else type(cause).__name__
