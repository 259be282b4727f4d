"""The side that asks: zygotes, each for one attempt at a time, and the attempts of a batch spread over them."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import queue
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import upslope
from upslope.errors import Unavailable
from upslope.tasks.sandbox.confine import landlock_version
from upslope.tasks.sandbox.system_calls import is_known_machine
from upslope.tasks.sandbox.zygote import SCRIPT, STOP, TESTS

PATIENCE = 60.0
"""Seconds that a zygote may take beyond what is allowed to its children, on a machine that is busy."""
LONGEST_VERDICT = 2**20
LONGEST_OUTPUT = 2**22
"""Bytes that are read of a program's standard output."""
_START = """
import sys
sys.path.insert(0, sys.argv[1])
from upslope.tasks.sandbox.zygote import serve_forks
serve_forks()
"""
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """What one process of an attempt may use. The clock allows twice the seconds of a core, for programs that sleep.

    >>> Limits(seconds=3).clock
    6
    """

    seconds: int = 5
    memory_mb: int = 256

    @property
    def clock(self) -> int:
        return 2 * self.seconds


class Judgement(NamedTuple):
    """Which tests were passed, as far as they were run; and a fault of the tests themselves, if one was seen."""

    passed: tuple[bool, ...]
    fault: str | None = None


class ScriptEnd(NamedTuple):
    """How a script ended: whether as a program should, what it wrote, and if not, whether it was killed: its time was
    over. What is cut, at ``LONGEST_OUTPUT``, has not ended well, and is not called late."""

    well: bool
    output: bytes
    late: bool


class Zygote:
    """One zygote. Raises Unavailable, from any method, if it cannot be started or is gone."""

    def __init__(self, limits: Limits) -> None:
        self._patience = limits.clock + PATIENCE
        folder = str(Path(upslope.__file__).parent.parent)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(self._patience)
        numbers = (theirs.fileno(), limits.seconds, limits.clock, limits.memory_mb * 2**20)
        with theirs, tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                # -S: no site-packages; -s, -P: nothing of the user's or of the folder; -B: nothing is written
                [sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", "-c", _START, folder, *map(str, numbers)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={"PYTHONHASHSEED": "0"},  # sets come in the same order in every run
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the one who asks
            )
            theirs.close()
            try:
                self._hear()
            except BaseException as error:
                self.close()
                said.seek(0)
                lines = said.read().decode(errors="replace").split("\n")
                why = next((line for line in reversed(lines) if line.strip()), str(error))
                raise Unavailable(f"no sandbox for programs on this machine: {why}") from error

    def judge(self, program: str, job: Mapping[str, Any]) -> Judgement:
        """The verdict of a job (``upslope.tasks.sandbox.checker``) on a program."""
        reads = self._ask(TESTS, program, json.dumps(job))
        lines = [json.loads(line) for line in self._all(reads, LONGEST_VERDICT).split(b"\n") if line.endswith(b"]")]
        self._hear()
        faults = [line[1] for line in lines if line[0] == "fault"]
        return Judgement(tuple(line[1] is True for line in lines if line[0] == "test"), faults[0] if faults else None)

    def run(self, program: str, text: str) -> ScriptEnd:
        """Run the program as a script that reads the text."""
        reads = self._ask(SCRIPT, program, text)
        output = self._all(reads, LONGEST_OUTPUT)
        told = json.loads(self._hear())
        whole = len(output) < LONGEST_OUTPUT
        late = whole and (told["late"] or told["statuses"] == [-signal.SIGKILL])  # the kernel's, for seconds of a core
        return ScriptEnd(whole and not late and told["statuses"] == [0], output, late)

    def stop(self) -> None:
        """End whatever it is at, from any thread; nothing can be asked afterwards."""
        try:
            self._control.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            return

    def close(self) -> None:
        """End it, and wait until it and its children are gone."""
        self._control.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children end with it
            self._process.wait()

    def _ask(self, what: bytes, program: str, second: str) -> int:
        """Where the answer is to be read."""
        reads, writes = os.pipe()
        files = [_file_of_text(program), _file_of_text(second)]
        try:
            socket.send_fds(self._control, [what], [*files, writes])
        except OSError as error:
            os.close(reads)
            raise Unavailable(f"the sandbox for programs is gone ({error})") from error
        finally:
            for descriptor in (*files, writes):
                os.close(descriptor)
        return reads

    def _hear(self) -> bytes:
        try:
            said = self._control.recv(2**16)
        except OSError as error:
            raise Unavailable(f"the sandbox for programs is gone ({error})") from error
        if not said:
            raise Unavailable("the sandbox for programs is gone; look whether memory was short")
        return said

    def _all(self, reads: int, most: int) -> bytes:
        """What is written to a pipe until its writers are gone, or the zygote says so (another process may hold a copy
        of its end); of what is longer, a part, and the writer is stopped."""
        parts, left = [], most
        wait = select.poll()
        wait.register(reads, select.POLLIN)
        wait.register(self._control, select.POLLIN)
        try:
            while left > 0 and reads in dict(wait.poll()) and (part := os.read(reads, min(left, 2**16))):
                parts.append(part)
                left -= len(part)
        finally:
            os.close(reads)
        if left <= 0:
            self._control.send(STOP)
        return b"".join(parts)


class Sandbox:
    """Some zygotes for one batch; leaving it ends them all, and whatever they run."""

    def __init__(self, limits: Limits, workers: int) -> None:
        self._free: queue.SimpleQueue[Zygote] = queue.SimpleQueue()
        self._zygotes: list[Zygote] = []
        try:
            for _ in range(workers):
                self._zygotes.append(Zygote(limits))
        except BaseException:
            self._close()
            raise
        for zygote in self._zygotes:
            self._free.put(zygote)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()

    def map(self, function: Callable[[Zygote, Given], Result], items: Iterable[Given]) -> list[Result]:
        """The function's result for every item, each with a zygote for itself. What it raises ends them all."""

        def with_one(item: Given) -> Result:
            zygote = self._free.get()
            try:
                return function(zygote, item)
            finally:
                self._free.put(zygote)

        threads = ThreadPoolExecutor(len(self._zygotes), thread_name_prefix="sandbox")
        try:
            return [future.result() for future in [threads.submit(with_one, item) for item in items]]
        except BaseException:
            for zygote in self._zygotes:
                zygote.stop()
            raise
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _close(self) -> None:
        for zygote in self._zygotes:
            zygote.stop()
        for zygote in self._zygotes:
            zygote.close()


def workers_for(attempts: int) -> int:
    """One for each core that this process may use, and not more than there are attempts."""
    return max(1, min(len(os.sched_getaffinity(0)), attempts))


def require_sandbox(limits: Limits) -> None:
    """Raise Unavailable unless programs can be run here behind walls that were tried just now."""
    if sys.platform != "linux" or not is_known_machine():
        where = f"{platform.system()} on {platform.machine()}"
        raise Unavailable(f"programs are run on Linux alone, on x86-64 or aarch64, and this is {where}")
    if not landlock_version():
        raise Unavailable(
            "programs need Landlock, which this kernel has not, or has switched off: Linux 5.13 or newer, with "
            "landlock among the names in /sys/kernel/security/lsm"
        )
    with Sandbox(limits, 1) as sandbox:
        holes = sandbox.map(lambda zygote, _: zygote.judge(_PROBE, _PROBED), [None])[0].passed
    names = [name for name, held in zip(_HOLES, holes, strict=False) if not held]
    if names or len(holes) != len(_HOLES):
        raise Unavailable(f"the sandbox does not hold on this machine ({', '.join(names) or 'no answer'})")


_HOLES: Sequence[str] = ("reading files", "writing files", "sockets", "processes", "signals")
_PROBE = """
import os, socket
def forbidden(what):
    try:
        [lambda: os.listdir("/"), lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY), socket.socket, os.fork,
         lambda: os.kill(os.getppid(), 0)][what]()
    except OSError as error:
        return error.errno in (1, 13)
"""
_PROBED = {
    "before": [],
    "names": ["forbidden"],
    "after": [],
    "tests": [f"assert forbidden({place}) is True" for place in range(len(_HOLES))],
    "all": True,
}


def _file_of_text(text: str) -> int:
    """A file in memory that nobody can change any more."""
    descriptor = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    left = memoryview(text.encode("utf-8", "surrogatepass"))
    while left:
        left = left[os.write(descriptor, left) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, _F_ADD_SEALS, _ALL_SEALS)
    return descriptor
