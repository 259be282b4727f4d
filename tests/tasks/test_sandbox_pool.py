"""The side that asks for programs to be run: where it refuses, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from upslope.errors import Unavailable
from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine, pool
from upslope.tasks.sandbox.pool import Limits, Sandbox, Zygote, require_sandbox

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)

ROW = {"prompt": "Add one.", "tests": ["assert add_one(1) == 2", "assert add_one(-1) == 0"]}


def test_a_sandbox_is_had_here() -> None:
    require_sandbox(Limits())


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda m: m.setattr(pool.sys, "platform", "darwin"), "on Linux alone"),
        (lambda m: m.setattr(pool, "is_known_machine", lambda: False), "on Linux alone"),
        (lambda m: m.setattr(pool, "landlock_version", lambda: 0), "need Landlock"),
        (lambda m: m.setattr(pool.sys, "executable", "/bin/false"), "no sandbox for programs on this machine"),
        (lambda m: m.setattr(pool, "_START", "raise OSError('seccomp filter')"), "seccomp filter"),
        (lambda m: m.setattr(pool, "_PROBE", "def forbidden(what): return what != 2"), "does not hold.*sockets"),
        (lambda m: m.setattr(pool, "_PROBE", "1 / 0"), "does not hold"),
    ],
)
def test_where_no_sandbox_is_to_be_had_nothing_is_run(
    break_it: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)
    with pytest.raises(Unavailable, match=says) as caught:
        CodeTask((), {}, Limits()).check_rewards()
    assert "\n" not in str(caught.value)


def test_a_child_that_cannot_wall_itself_in_is_never_a_reward_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = pool._START.replace(
        "serve_forks()", "from upslope.tasks.sandbox import zygote\nzygote.leave_few_calls = None\nserve_forks()"
    )
    monkeypatch.setattr(pool, "_START", broken)
    with pytest.raises(Unavailable, match="the sandbox for programs is gone"):
        task = CodeTask((), {}, Limits())
        task.score([task.build(ROW, "x")], ["def add_one(x): return x + 1"])


def test_a_zygote_that_is_killed_is_never_a_reward_of_zero() -> None:
    with Sandbox(Limits(seconds=5), 1) as sandbox:
        victim = sandbox._zygotes[0]._process
        timer = threading.Timer(0.3, victim.kill)
        timer.start()
        with pytest.raises(Unavailable):
            sandbox.map(lambda zygote, _: zygote.run("while True: pass", ""), [None])
        timer.join()


def is_gone(pid: int, how: signal.Signals) -> bool:
    """Whether a process has ended; of one whose parent was killed, the rest is for init to take."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z" and how == signal.SIGKILL


def test_many_attempts_side_by_side_keep_their_order() -> None:
    task = CodeTask((), {}, Limits())
    problem = task.build({**ROW, "id": "x"}, "x")
    programs = [f"def add_one(x): return x + {i % 2}" for i in range(60)]
    assert [score.reward for score in task.score([problem] * 60, programs)] == [0.0, 1.0] * 30


def test_a_crash_of_one_ends_all() -> None:
    begin = time.monotonic()

    def one(zygote: Zygote, place: int) -> None:
        if place:
            zygote.run("import time\ntime.sleep(60)", "")
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), Sandbox(Limits(seconds=30), 2) as sandbox:
        processes = [zygote._process for zygote in sandbox._zygotes]
        sandbox.map(one, [0, 1, 1])
    assert time.monotonic() - begin < 20
    assert all(process.poll() is not None for process in processes)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(how: signal.Signals, tmp_path: Path) -> None:
    """No process, no zombie, no file; whatever the programs do."""
    script = tmp_path / "batch.py"
    script.write_text(
        textwrap.dedent("""
        import os, subprocess
        from upslope.tasks.sandbox.pool import Limits, Sandbox
        program = "import signal\\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\\nwhile True: pass"
        try:
            with Sandbox(Limits(seconds=77), 2) as sandbox:
                print("\\n".join(str(z._process.pid) for z in sandbox._zygotes), flush=True)
                sandbox.map(lambda zygote, _: zygote.run(program, ""), range(8))
        except KeyboardInterrupt:
            children = open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read()
            print("interrupted", repr(children), flush=True)
        """)
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        zygotes = [int(process.stdout.readline()) for _ in range(2)]
        children: list[str] = []
        while len(children) < 2:
            time.sleep(0.02)
            children = [c for z in zygotes for c in Path(f"/proc/{z}/task/{z}/children").read_text().split()]
        process.send_signal(how)
        rest = process.stdout.read()
    if how == signal.SIGINT:
        assert rest == "interrupted ''\n"
    deadline = time.monotonic() + 10
    left = [*zygotes, *map(int, children)]
    while time.monotonic() < deadline and not all(is_gone(pid, how) for pid in left):
        time.sleep(0.02)
    assert [pid for pid in left if not is_gone(pid, how)] == []
    assert list((tmp_path / "tmp").iterdir()) == []
