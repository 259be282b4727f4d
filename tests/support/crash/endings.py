"""What ends a run, each with what must be so then; the trial's ``finish`` says what must be so in the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crash import cases
from crash.cases import EVERY, RUN
from crash.forks import FULL, ROOT, Ended
from crash.trials import Found, Trial

STOPPED, MACHINE, MISTAKE = 128, 3, 2
"""Exit codes: stopped by a signal (plus its number), no room, and the user's."""
PATIENCE = 120.0


def killed(trial: Trial, moments: Iterable[float]) -> Found:
    """SIGKILL for the run, and for whoever resumes it, each after so many seconds; then it comes to its end."""
    for moment in moments:
        child = trial.bench.server.start(trial.command(), trial.folder)
        time.sleep(moment)
        child.signal(signal.SIGKILL)
        if not trial.kill(child.wait()):
            break
    return trial.finish()


def killed_at(trial: Trial, what: int, at: int) -> Found:
    """SIGKILL at its n-th change: before it, or (``HALF``) in the middle of it, where it is a write."""
    if not trial.kill(trial.bench.server.run(trial.command(), trial.folder, trial.tap(what, at))):
        trial.fault(f"it makes fewer than {at} changes")
    return trial.finish()


def killed_afresh(trial: Trial, moment: float) -> Found:
    """SIGKILL so many seconds after the run began, for a process of its own, as a user starts it."""
    process = _process(trial)
    wait_until_begun(trial)
    time.sleep(moment)
    process.kill()
    out, err = process.communicate()
    trial.kill(Ended(process.returncode, out, err, 0.0, process.pid))
    if cases.done(trial.folder) < cases.STEPS:
        process = _process(trial)
        out, err = process.communicate()
        trial.expect(Ended(process.returncode, out, err, 0.0, process.pid), 0)
    return trial.finish()


def _process(trial: Trial) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "upslope.cli", *trial.command()]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=trial.folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def wait_until_begun(trial: Trial) -> None:
    latest = time.monotonic() + PATIENCE
    while not cases.begun(trial.folder):
        assert time.monotonic() < latest, "it does not begin"
        time.sleep(0.01)


def full_at(trial: Trial, what: int, at: int) -> Found:
    """The disk is full at the n-th call that needs room: for that call alone (``FULL_ONCE``), so that the step that was
    finished can be saved after all, or from then on."""
    trial.asked = True
    ended = trial.bench.server.run(trial.command(), trial.folder, trial.tap(what, at))
    trial.expect(ended, MACHINE)
    trial.one_line(ended)
    if cases.done(trial.folder) and f"continue with: upslope train --resume {RUN}" not in ended.err + ended.out:
        trial.fault(f"it does not say how to go on: {ended.err!r}")
    trial.stopped(EVERY if what == FULL else 0)
    return trial.finish()


def really_full(trial: Trial, room: int) -> Found:
    """The run's folder lies on a disk of so many KiB, until it is resumed."""
    trial.asked = True
    with disk(trial.folder / RUN.parent, room) as grow:
        ended = trial.bench.server.run(trial.command(), trial.folder)
        trial.expect(ended, MACHINE, 0)
        if ended.code:
            trial.one_line(ended)
        trial.stopped()
        grow()
        return trial.finish(keep=True)


@contextmanager
def disk(place: Path, room: int) -> Iterator[Callable[[], object]]:
    """A small disk there; what it yields makes it large. Raises PermissionError where none can be mounted."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "crash", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("this user can mount nothing")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def signalled(trial: Trial, number: int, moment: float) -> Found:
    """A signal that asks it to stop, after so many seconds. While it is loaded, and after its last step, the signal
    does what it does to any process."""
    trial.asked = True
    child = trial.bench.server.start(trial.command(), trial.folder)
    time.sleep(moment)
    child.signal(number)
    ended = child.wait()
    trial.expect(ended, STOPPED + number, -number, 0)
    if ended.err:
        trial.fault(f"it said {ended.err!r}")
    told = re.search(r"^run it steps=(\d+)", ended.out, re.M)
    steps_to_do = told is not None and not re.search(rf"done at step|^eval step={told[1]} ", ended.out, re.M)
    if ended.code and steps_to_do and not ended.out.splitlines()[-1].startswith("stopped; continue with: "):
        trial.fault(f"it does not say how to go on: {ended.code} {ended.out[-300:]!r}")
    trial.stopped(0)
    return trial.finish()


def unheard(trial: Trial, moment: float | None) -> Found:
    """Whoever reads its output leaves after so many seconds, or (None) the device that it writes to is full. It goes
    on."""
    out = "/dev/full" if moment is None else str(trial.folder / "pipe")
    readers = []
    if moment is not None:
        os.mkfifo(out)
        readers = [threading.Thread(target=_read_for, args=(out, moment))]
        readers[0].start()
    ended = trial.bench.server.run(trial.command(), trial.folder, out=out, err=out)
    for reader in readers:
        reader.join()
    trial.expect(ended, 0)
    trial.stopped(0)
    return trial.finish()


def _read_for(pipe: str, seconds: float) -> None:
    with Path(pipe).open("rb", buffering=0) as stream:
        time.sleep(seconds)
        stream.read(1)


def disputed(trial: Trial) -> Found:
    """A second process that wants the folder, to begin or to resume, is told why not, and harms nobody."""
    first = trial.bench.server.start(trial.command(), trial.folder)
    wait_until_begun(trial)
    os.kill(first.pid, signal.SIGSTOP)  # else a fast machine has done all of it before the second one asks
    for command, told in (
        (trial.bench.first(trial.recipe), "holds a run already"),
        (trial.command(), f"belongs to process {first.pid} on "),
    ):
        second = trial.bench.server.run(command, trial.folder)
        trial.expect(second, MISTAKE)
        trial.one_line(second)
        if told not in second.err:
            trial.fault(f"the second said {second.err!r}")
    os.kill(first.pid, signal.SIGCONT)
    trial.expect(first.wait(), 0)
    trial.stopped(0)
    return trial.finish()
