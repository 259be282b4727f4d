"""What a program tries, and what is so outside afterwards: as whoever runs the tests, and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import escapes
import pytest

from upslope.tasks.sandbox import confine, pool
from upslope.tasks.sandbox.pool import Limits, Zygote

ROOT = Path(__file__).resolve().parents[2]

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


@dataclass
class Outside:
    """What there is to reach, and how it was."""

    folder: Path
    victim: subprocess.Popen[bytes]
    listeners: tuple[socket.socket, ...]

    def places(self) -> dict[str, object]:
        tcp, udp, unix, abstract = (listener.getsockname() for listener in self.listeners)
        return {
            "repository": ROOT,
            "folder": self.folder,
            "secret": self.folder / "secret",
            "pid": os.getpid(),
            "victim": self.victim.pid,
            "tcp": tcp[1],
            "udp": udp[1],
            "unix": unix,
            "abstract": abstract[1:].decode(),
        }

    def state(self) -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted(self.folder.rglob("*"))
        }

    def reached(self) -> list[str]:
        """Which listeners something came to."""
        names = []
        for listener in self.listeners:
            listener.settimeout(0)
            try:
                listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()
            except BlockingIOError:
                continue
            names.append(str(listener.getsockname()))
        return names


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    folder = Path(tempfile.mkdtemp(prefix="upslope-outside-"))
    folder.chmod(0o777)  # open to everybody: only the sandbox is in between
    (folder / "secret").write_text("secret")
    (folder / "secret").chmod(0o666)
    (folder / "empty").mkdir(mode=0o777)
    (folder / "to-secret").symlink_to(folder / "secret")
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(str(folder / "socket"))
    (folder / "socket").chmod(0o777)
    unix.listen()
    abstract.bind(f"\0upslope-{os.getpid()}")
    with tcp, udp, unix, abstract:
        victim = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        yield Outside(folder, victim, (tcp, udp, unix, abstract))
    victim.kill()
    victim.wait()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote(Limits(seconds=1, memory_mb=128))
    yield made
    made.close()


@pytest.fixture(scope="module")
def zygote_of_the_oldest_landlock() -> Iterator[Zygote]:
    """One that asks of the kernel only what the first version of Landlock had."""
    with pytest.MonkeyPatch.context() as patch:
        old = "from upslope.tasks.sandbox import confine\nconfine.landlock_version = lambda: 1\nserve_forks()"
        patch.setattr(pool, "_START", pool._START.replace("serve_forks()", old))
        made = Zygote(Limits(seconds=1, memory_mb=128))
    yield made
    made.close()


def program_of(text: str, outside: Outside) -> str:
    return escapes.PRELUDE + text.format(**outside.places()) + '\nprint("TRIED")\n'


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_there_are_enough() -> None:
    assert len(escapes.ESCAPES) + len(escapes.ENDLESS) >= 30


def require_held(name: str, outside: Outside, zygote: Zygote) -> None:
    """Run an escape, and look at what it says and at what is outside."""
    before = outside.state()
    ended = zygote.run(program_of(escapes.ESCAPES[name], outside), "")
    said = ended.output.decode()
    assert "ESCAPED" not in said
    killed = "calls of another kind" in name and os.uname().machine == "x86_64"
    assert said == ("" if killed else "TRIED\n")  # it did come to its end
    assert outside.state() == before
    assert outside.reached() == []
    assert outside.victim.poll() is None
    assert children_of(zygote._process.pid) == []


@pytest.mark.parametrize("name", escapes.ESCAPES)
def test_a_program_stays_inside(name: str, outside: Outside, zygote: Zygote) -> None:
    require_held(name, outside, zygote)


@pytest.mark.parametrize("name", escapes.ESCAPES)
def test_the_oldest_landlock_holds_as_much(name: str, outside: Outside, zygote_of_the_oldest_landlock: Zygote) -> None:
    require_held(name, outside, zygote_of_the_oldest_landlock)


@pytest.mark.parametrize("name", escapes.ENDLESS)
def test_a_program_is_ended(name: str, outside: Outside, zygote: Zygote) -> None:
    begin = time.monotonic()
    ended = zygote.run(program_of(escapes.ENDLESS[name], outside), "")
    assert not ended.well
    assert len(ended.output) <= pool.LONGEST_OUTPUT
    assert time.monotonic() - begin < 20  # of two seconds by the clock, on a busy machine
    assert children_of(zygote._process.pid) == []


def test_what_is_allowed_works(outside: Outside, zygote: Zygote) -> None:
    """The same programs' prelude can read, write and compute: the sandbox is no brick."""
    program = program_of('print(open(os.__file__).read(3) != "", sys.stdin.read(), os.environ, os.getcwd())', outside)
    ended = zygote.run(program, "given")
    assert ended.output.decode() == "True given environ({}) /\nTRIED\n"
    assert ended.well


def test_nothing_carries_over(zygote: Zygote, outside: Outside) -> None:
    """What one attempt leaves in its interpreter, and what it was, is not in the next."""
    mark = "left-" + "behind"
    first = f'import builtins, math\nbuiltins.left = math.left = "{mark}"\nprint(1)'
    assert zygote.run(first, mark).well
    look = """
import builtins, ctypes, gc, math
print(hasattr(builtins, "left"), hasattr(math, "left"))
print(any("left-" + "behind" in repr(o) for o in gc.get_objects() if isinstance(o, (str, dict)) and len(o) < 999))
"""
    assert zygote.run(look, "").output == b"False False\nFalse\n"


def test_sets_come_in_the_same_order_in_every_run() -> None:
    outputs = set()
    for _ in range(2):
        made = Zygote(Limits())
        outputs.add(made.run("print({'a', 'b', 'c', 'd', 'e', 'f'})", "").output)
        made.close()
    assert len(outputs) == 1
