"""Runs as children of a process that has everything loaded, and what ends them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
KILL, HALF, FULL, FULL_ONCE = 1, 2, 3, 4
"""What tap.c does at its moment: end the process before a change, in the middle of a write, or fill the disk, for good
or for one call."""


@dataclass(frozen=True)
class Tap:
    """What happens at which change (from 1; 0: never) below a folder; ``log`` gets a line a change."""

    folder: Path
    what: int
    at: int
    log: str = ""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus n: signal n ended it), what it said, and after how many seconds."""

    code: int
    out: str
    err: str
    seconds: float
    pid: int


@dataclass
class Child:
    """A run that is under way."""

    server: Server
    pid: int
    out: Path
    err: Path
    began: float

    def signal(self, number: int) -> None:
        """It is not waited for yet, so the number is still its own."""
        os.kill(self.pid, number)

    def wait(self) -> Ended:
        code = int(self.server.ask({"wait": self.pid})["code"])
        seconds = time.perf_counter() - self.began
        out, err = (p.read_text(errors="replace") if p.is_file() else "" for p in (self.out, self.err))
        return Ended(code, out, err, seconds, self.pid)


class Server:
    """The process that is forked: started with the ``with`` statement, and gone after it."""

    def __init__(self, scratch: Path, environment: dict[str, str]) -> None:
        self._scratch, self._environment, self._number = scratch, environment, 0
        self.tap = compiled(scratch)
        """The compiled tap.c; None where there is no compiler, or another system."""

    def __enter__(self) -> Server:
        answers, theirs = os.pipe()
        environment = self._environment | ({"LD_PRELOAD": str(self.tap)} if self.tap else {})
        command = [sys.executable, str(HERE / "serve.py"), str(theirs)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(theirs,), env=environment, cwd=ROOT)
        os.close(theirs)
        self._answers = os.fdopen(answers)
        self.threads = int(json.loads(self._answers.readline())["threads"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._answers.close()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def start(
        self, arguments: Sequence[str], cwd: Path, tap: Tap | None = None, *, out: str = "", err: str = ""
    ) -> Child:
        """``upslope ARGUMENTS`` in a folder; ``out`` and ``err``: where it writes, files of their own otherwise."""
        self._number += 1
        places = {"out": out, "err": err}
        places = {name: place or str(self._scratch / f"{self._number}.{name}") for name, place in places.items()}
        asked = None if tap is None else [str(tap.folder), tap.what, tap.at, tap.log]
        began = time.perf_counter()
        answer = self.ask({"arguments": list(arguments), "cwd": str(cwd), "tap": asked, **places})
        return Child(self, int(answer["pid"]), Path(places["out"]), Path(places["err"]), began)

    def run(
        self, arguments: Sequence[str], cwd: Path, tap: Tap | None = None, *, out: str = "", err: str = ""
    ) -> Ended:
        return self.start(arguments, cwd, tap, out=out, err=err).wait()


def compiled(into: Path) -> Path | None:
    """tap.c as a library that can be loaded before all others; None where that cannot be had."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return None
    made = into / "tap.so"
    command = [compiler, "-O1", "-shared", "-fPIC", str(HERE / "tap.c"), "-o", str(made), "-ldl"]
    return made if subprocess.run(command, capture_output=True).returncode == 0 else None


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder to work in, in memory where the system has such a place, and gone at the end."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="upslope-crash-", dir=memory if memory.is_dir() else None) as scratch:
        yield Path(scratch)


@contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    """A server that works in ``scratch``: there are its caches too."""
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LD_PRELOAD")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # the one thread that loading would start
    with Server(scratch, environment) as server:
        yield server
