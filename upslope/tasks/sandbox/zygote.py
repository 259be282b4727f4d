"""The small process from which the processes of an attempt are forked: fresh ones each time, behind its walls.

It is a new interpreter with an empty environment that has imported what programs often use. It never reads a program or
a test: a child gets those as a file of its own, so nothing of one attempt can be in another's memory. It waits for its
children, kills them when their time is over, when it is told to, or when who started it is gone, and reports how they
ended.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from upslope.tasks.sandbox.candidate import run_script, serve_program
from upslope.tasks.sandbox.checker import run_tests
from upslope.tasks.sandbox.confine import become_nobody, forbid_files, limit, stand_apart
from upslope.tasks.sandbox.system_calls import filter_code, leave_few_calls

TESTS, SCRIPT, STOP = b"t", b"s", b"x"
"""What is asked for: the descriptors are (program, tests, verdict), or (program, standard input, standard output), or
none."""
PRELOADED = (
    *("array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime"),
    *("decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "operator"),
    *("queue", "random", "re", "statistics", "string", "textwrap", "typing"),
)
"""Modules that a program finds loaded; it may import all others of the standard library too."""


def serve_forks() -> None:
    """``argv``: where upslope is, the descriptor of the control socket, seconds of one core, seconds of the clock,
    bytes of memory."""
    folder, control, seconds, clock, memory = sys.argv[1:]
    sys.path.remove(folder)
    sys.argv[:] = [""]
    os.environ.clear()
    for name in PRELOADED:
        __import__(name)
    become_nobody()
    forbid_files()
    server = socket.socket(fileno=int(control))
    gc.collect()
    gc.freeze()  # what is here stays; a collection in a child would copy all of it
    server.sendall(b"ready")
    os.dup2(1, 2)  # from here on nothing is said: both lead nowhere
    fork = _Fork(filter_code(os.uname().machine), int(seconds), int(memory))
    while True:
        what, descriptors, _, _ = socket.recv_fds(server, 1, 3)
        if not what:
            return
        if what == STOP:  # it came when all was over
            continue
        children = _start(what, descriptors, fork, server)
        ended = _wait(children, time.monotonic() + float(clock), server)
        server.sendall(json.dumps(ended).encode())


class _Fork:
    """A child that runs one function behind all walls, and has no descriptors but its own."""

    def __init__(self, code: bytes, seconds: int, memory: int) -> None:
        self._code, self._seconds, self._memory = code, seconds, memory

    def __call__(self, keep: list[int], first: int, run: Callable[[str], None]) -> int:
        """The id of a child that calls ``run`` with the text in the file ``first``. Its exit status is 0 if ``run``
        returns. Raises ChildProcessError if it could not put itself behind the walls."""
        begun, begin = os.pipe()
        pid = os.fork()
        if pid:
            os.close(begin)
            ready = os.read(begun, 1)
            os.close(begun)
            if not ready:
                raise ChildProcessError("a child is not behind its walls")
            return pid
        status = 1
        try:
            _keep_open({0, 1, 2, first, begin, *keep})
            text = os.pread(first, os.fstat(first).st_size, 0).decode("utf-8", "surrogatepass")
            os.close(first)
            limit(self._seconds, self._memory)
            stand_apart()
            leave_few_calls(self._code)
            os.write(begin, b"1")
            os.close(begin)
            run(text)
            status = 0
        except SystemExit as ended:
            status = 0 if ended.code in (None, 0) else 1
        finally:
            os._exit(status)


def _start(what: bytes, descriptors: list[int], fork: _Fork, server: socket.socket) -> list[int]:
    program, second, third = descriptors
    if what == SCRIPT:

        def script(text: str) -> None:
            os.dup2(second, 0)
            os.dup2(third, 1)
            os.close(second)
            os.close(third)
            run_script(text)

        children = [fork([second, third], program, script)]
    else:
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        children = [
            fork([asked, answer], program, lambda text: serve_program(text, asked, answer)),
            fork([ask, answered, third], second, lambda text: _judge(text, answered, ask, third)),
        ]
        descriptors = [*descriptors, asked, ask, answered, answer]
    for descriptor in descriptors:
        os.close(descriptor)
    return children


def _judge(text: str, reads: int, writes: int, verdict: int) -> None:
    def report(line: list[Any]) -> None:
        os.write(verdict, json.dumps(line).encode() + b"\n")

    run_tests(json.loads(text), reads, writes, report)


def _keep_open(keep: set[int]) -> None:
    reached = 0
    for descriptor in sorted(keep):
        if reached < descriptor:  # an empty range would mean all of them
            os.closerange(reached, descriptor)
        reached = descriptor + 1
    os.closerange(reached, 2**16)


def _wait(children: list[int], until: float, server: socket.socket) -> dict[str, Any]:
    """Wait for the last child (the tests, or a script), kill what is left, and say how it went."""
    handle = os.pidfd_open(children[-1])
    try:
        ready, _, _ = select.select([handle, server.fileno()], [], [], max(until - time.monotonic(), 0))
    finally:
        os.close(handle)
    for child in children:
        os.kill(child, signal.SIGKILL)
    if server.fileno() in ready:
        server.recv(1)  # told to stop; of one that is gone, the next read ends the loop
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return {"statuses": statuses, "late": not ready}
