"""Rewards in processes of their own, which can be killed: one that hangs or ends its process takes no run with it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, cast

from upslope.errors import Unavailable, UserError
from upslope.native.parent import started
from upslope.tasks.at_work import PATIENCE, WATCH, not_to_wait_for, on
from upslope.types import Problem, Score

MOMENT = 0.1
"""Seconds between two looks at the clock."""
CHUNK = 1 << 20
START = "import sys; from upslope.tasks.worker import serve; serve(*map(int, sys.argv[1:]))"


@dataclass(frozen=True)
class Lost:
    """An attempt that has no score: what was at work, and what became of its process.

    >>> Lost("reward function 'judge' on rows/3").ending  # killed here, because it took too long
    ''
    """

    what: str
    ending: str = ""
    """How the process ended by itself."""


class Worker:
    """One process that scores, seen from here."""

    def __init__(self, maker: str, arguments: Mapping[str, Any]) -> None:
        """Start it; it is ready when it says so. Raises Unavailable if the system has no room for a process."""
        self._end, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = started(partial(_started, theirs.fileno()))
            except OSError as error:
                self._end.close()
                raise Unavailable(f"a process for rewards cannot be started: {error.strerror or error}") from None
        self._read = b""
        self.what = "a process for rewards, before its first attempt,"
        """What is at work in it."""
        self.places: Sequence[int] = ()
        """Which attempts it has been given."""
        self.since = time.monotonic()
        """When it was given them, or started."""
        self.told = False
        """Whether it was said that it takes long."""
        self.ready = False
        self.send((maker, dict(arguments)))

    @property
    def idle(self) -> bool:
        return self.ready and not self.places

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, content: Any) -> None:
        try:
            message = pickle.dumps(content)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"a problem's columns cannot be handed to another process ({error}); make them plain data, or set "
                "task.reward_workers=0 and no task.reward_timeout"
            ) from None
        with contextlib.suppress(OSError):  # it has ended, which ``take`` finds out
            self._end.sendall(message)

    def take(self) -> list[list[Any]]:
        """What it has answered since, after there was something to read. Raises EOFError if it has ended."""
        with contextlib.suppress(ConnectionResetError):
            if more := self._end.recv(CHUNK):
                *lines, self._read = (self._read + more).split(b"\n")
                return [json.loads(line) for line in lines]
        raise EOFError

    def kill(self) -> int:
        """End it and whatever it started, as far as that has not left its group; returns how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._end.close()
        return self._process.wait()

    def ended(self) -> int:
        """How it ended by itself, after ``take`` found that it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return self.kill()


def _started(end: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", START, str(end), str(os.getpid())],
        stdout=_standard_error(),
        stdin=subprocess.DEVNULL,
        pass_fds=[end],
        start_new_session=True,  # Ctrl-C in the terminal is the run's business
    )


class Workers:
    """``num`` processes, each with a scorer of its own: an object with ``score(problems, responses)``, as a task is."""

    def __init__(self, maker: str, arguments: Mapping[str, Any], num: int, seconds: float) -> None:
        """``maker``: ``MODULE:FUNCTION``, which makes a scorer of ``arguments``. ``seconds`` an attempt may take, each
        alone; 0: no limit, and attempts are shared out evenly."""
        self._maker, self._arguments, self._num, self._seconds = maker, arguments, num, seconds
        self._workers: list[Worker] = []
        self._one_call = threading.Lock()  # an evaluation may come while a sampler that runs ahead is scored
        weakref.finalize(self, _kill_all, self._workers)  # at the latest when this process ends

    def score(
        self, problems: Sequence[Problem], responses: Sequence[str], lost: Callable[[Lost], Score]
    ) -> list[Score]:
        """A score of each response; ``lost`` says it of one whose process was killed, or ended. Threads take turns.

        Raises UserError for what the scorer raises, and for a process that ended before its first attempt; and what
        ``lost`` raises, at once.
        """
        with self._one_call:
            return self._scored(problems, responses, lost)

    def _scored(
        self, problems: Sequence[Problem], responses: Sequence[str], lost: Callable[[Lost], Score]
    ) -> list[Score]:
        found: dict[int, Score] = {}
        jobs = deque(self._shares(len(problems)))
        try:
            while jobs or any(worker.places for worker in self._workers):
                self._start(len(jobs))
                for worker in self._workers:
                    if jobs and worker.idle:
                        self._give(worker, jobs.popleft(), problems, responses)
                by_number = {worker.fileno(): worker for worker in self._workers}
                with not_to_wait_for():
                    heard = wait([*by_number], MOMENT)
                for number in heard:
                    self._hear(by_number[cast(int, number)], found, lost)
                self._look_at_the_clock(found, lost)
        except BaseException:
            _kill_all(self._workers)
            raise
        return [found[place] for place in range(len(problems))]

    def _shares(self, num: int) -> list[range]:
        """The attempts of each call: one where each has its own time, else as many as are even."""
        size = 1 if self._seconds else max(1, -(-num // self._num))
        return [range(begin, min(begin + size, num)) for begin in range(0, num, size)]

    def _start(self, num_jobs: int) -> None:
        waiting = sum(not worker.places for worker in self._workers)
        while len(self._workers) < self._num and waiting < num_jobs:
            self._workers.append(Worker(self._maker, self._arguments))
            waiting += 1

    def _give(self, worker: Worker, places: range, problems: Sequence[Problem], responses: Sequence[str]) -> None:
        worker.places, worker.since, worker.told = places, time.monotonic(), False
        worker.what = f"the task's score {on([problems[i] for i in places])}"
        worker.send(([problems[i] for i in places], [responses[i] for i in places]))

    def _hear(self, worker: Worker, found: dict[int, Score], lost: Callable[[Lost], Score]) -> None:
        try:
            answers = worker.take()
        except EOFError:
            self._workers.remove(worker)
            ending = _ending(worker.ended())
            if not worker.ready:
                raise UserError(f"{worker.what} ended its process ({ending})") from None
            found.update({place: lost(Lost(worker.what, ending)) for place in worker.places})
            return
        for kind, *content in answers:
            if kind == "ready":
                worker.ready = True
            elif kind == "at":
                worker.what = content[0]
            elif kind == "print":
                _show(*content)
            elif kind == "scores":
                found.update(zip(worker.places, map(_score, content[0]), strict=True))
                worker.places = ()
            elif kind in ("mistake", "machine"):
                raise (UserError if kind == "mistake" else Unavailable)(content[0])
            else:
                raise RuntimeError(f"a process for rewards failed:\n{content[0]}")

    def _look_at_the_clock(self, found: dict[int, Score], lost: Callable[[Lost], Score]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            past = now - worker.since
            if self._seconds and worker.places and past > self._seconds:
                self._workers.remove(worker)
                worker.kill()
                found[worker.places[0]] = lost(Lost(worker.what))
            elif (worker.places or not worker.ready) and past > PATIENCE and not worker.told:
                worker.told = True
                WATCH.say(f"{worker.what} has been at work for {PATIENCE:g} s")


def _kill_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().kill()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time one has no name
        return f"killed by signal {-code}"


def _show(stream: str, text: str) -> None:
    """What a reward printed, where this process prints; lost where nobody reads that any more."""
    to = sys.stdout if stream == "stdout" else sys.stderr
    with contextlib.suppress(OSError, ValueError):
        print(text, end="", file=to, flush=True)


def _standard_error() -> int:
    """Where what is not printed by Python goes: not among the rows that a command writes to standard output."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _score(fields: Mapping[str, Any]) -> Score:
    steps = tuple((int(place), float(reward)) for place, reward in fields["steps"])
    by_token = None if fields["by_token"] is None else tuple(fields["by_token"])
    return Score(**{**fields, "steps": steps, "by_token": by_token, "by_turn": tuple(fields["by_turn"])})
