"""One run that is ended in some way, resumed to its end, and held against the run that nothing ended."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash import cases
from crash.cases import EVERY, RUN, Bench
from crash.forks import FULL, Ended, Tap

STOPPED, MACHINE, MISTAKE = 128, 3, 2
"""Exit codes: stopped by a signal (plus its number), no room, and the user's."""


@dataclass
class Found:
    """What a trial showed."""

    label: str
    stops: int = 0
    """How often the run was ended."""
    lost: int = 0
    """Finished steps that were in no checkpoint, at most."""
    faults: list[str] = field(default_factory=list)


class Trial:
    """A recipe's run in a folder of its own; ``whole`` is what an undisturbed one leaves."""

    def __init__(self, bench: Bench, recipe: str, label: str, whole: dict[str, Any], start: Path | None = None) -> None:
        """``start``: a run that was stopped, to go on from a copy of it."""
        self.bench, self.recipe, self.whole = bench, recipe, whole
        self.found = Found(f"{recipe} {label}")
        self.folder = bench.trial(self.found.label.replace("/", "_").replace(" ", "-"))
        if start is not None:
            shutil.copytree(start, self.folder, dirs_exist_ok=True)
        self.asked = False
        """Whether it could save before it ended, after other steps than an undisturbed run does."""
        self.killed: set[int] = set()
        """Those whose unfinished files may be there: of the last kill."""

    def command(self) -> list[str]:
        return self.bench.next(self.recipe, self.folder)

    def tap(self, what: int, at: int) -> Tap:
        return Tap(self.folder / RUN, what, at)

    def fault(self, text: str) -> None:
        self.found.faults.append(text)

    def stopped(self, allowed: int = EVERY) -> None:
        """It was ended: no more than ``allowed`` finished steps may be lost, and the journal counts them once."""
        done, saved = cases.done(self.folder), cases.saved(self.folder)
        self.found.stops += 1
        self.found.lost = max(self.found.lost, done - saved)
        if done - saved > allowed:
            self.fault(f"{done} steps were done, and the newest checkpoint is of {saved}")

    def kill(self, ended: Ended) -> bool:
        """Take note of a kill, if it was one; else the run must have come to its end."""
        if ended.code == -signal.SIGKILL:
            self.killed = {ended.pid}
            self.stopped()
            return True
        self.expect(ended, 0)
        return False

    def expect(self, ended: Ended, *codes: int) -> None:
        """How a process must have ended, and never with a traceback."""
        if ended.code not in codes or "Traceback" in ended.err + ended.out:
            self.fault(f"exit code {ended.code}, not {codes}: {ended.err[-1500:]}{ended.out[-300:]}")

    def finish(self) -> Found:
        """Resume to the end, if it is not there, and compare."""
        if cases.saved(self.folder) < cases.STEPS or not (self.folder / RUN / "report.png").exists():
            self.expect(self.bench.server.run(self.command(), self.folder), 0)
        if not self.found.faults:
            self.compare()
        if not self.found.faults:
            shutil.rmtree(self.folder)
        return self.found

    def compare(self) -> None:
        now, whole = (cases.contents(self.folder), self.whole)
        if self.asked:
            now, whole = (cases.without_older_checkpoints(found) for found in (now, whole))
        for name in sorted({*now, *whole}):
            if name not in now or name not in whole:
                self.fault(f"{name} is {'left over' if name in now else 'not there'}")
            elif now[name] != whole[name]:
                self.fault(f"{name} is another one")
        for name, pid in cases.parts(self.folder).items():
            if pid not in self.killed:
                self.fault(f"{name} is left over from before the last kill")


def undisturbed(bench: Bench, recipe: str) -> tuple[dict[str, Any], float]:
    """What a run leaves that nothing ends, and how long it takes."""
    folder = bench.trial(f"{recipe}-whole")
    ended = bench.server.run(bench.first(recipe), folder)
    assert ended.code == 0 and ended.err == "", ended
    return cases.contents(folder), ended.seconds


def changes(bench: Bench, recipe: str, what: int, start: Path | None = None) -> list[str]:
    """Every change below the folder, in order, that a run (gone on with from ``start``) makes and ``what`` counts."""
    folder = bench.trial(f"{recipe}-{what}-changes" + ("-resumed" if start else ""))
    if start is not None:
        shutil.copytree(start, folder, dirs_exist_ok=True)
    log = folder / "log"
    ended = bench.server.run(bench.next(recipe, folder), folder, Tap(folder / RUN, what, 0, str(log)))
    assert ended.code == 0, ended
    return [line.split(" ", 1)[1] for line in log.read_text().splitlines()]


def chain(trial: Trial, moments: Iterable[float]) -> Found:
    """Kill the run, and whoever resumes it, each after so many seconds; then let it come to its end."""
    for moment in moments:
        child = trial.bench.server.start(trial.command(), trial.folder)
        time.sleep(moment)
        child.signal(signal.SIGKILL)
        if not trial.kill(child.wait()):
            break
    return trial.finish()


def killed_at(trial: Trial, what: int, at: int) -> Found:
    """Kill it at its n-th change: before it, or (``HALF``) in the middle, where it is a write."""
    if not trial.kill(trial.bench.server.run(trial.command(), trial.folder, trial.tap(what, at))):
        trial.fault(f"it makes fewer than {at} changes")
    return trial.finish()


def full_at(trial: Trial, what: int, at: int) -> Found:
    """Let the disk be full at the n-th call that needs room, for that call alone or from then on."""
    ended = trial.bench.server.run(trial.command(), trial.folder, trial.tap(what, at))
    trial.asked = True
    trial.expect(ended, MACHINE)
    if len(ended.err.splitlines()) != 1:
        trial.fault(f"not one line: {ended.err}")
    trial.stopped(EVERY if what == FULL else 0)
    return trial.finish()


def signalled(trial: Trial, number: int, moment: float) -> Found:
    """Ask it to stop after so many seconds. While it is loaded, and after its end, a signal does what it does to any
    process."""
    trial.asked = True
    child = trial.bench.server.start(trial.command(), trial.folder)
    time.sleep(moment)
    child.signal(number)
    ended = child.wait()
    trial.expect(ended, STOPPED + number, -number, 0)
    if ended.err:
        trial.fault(f"it said {ended.err!r}")
    under_way = "run it steps=" in ended.out and "done at step" not in ended.out
    if ended.code != 0 and under_way and not ended.out.splitlines()[-1].startswith("stopped; "):
        trial.fault(f"it does not say how it ended: {ended.code} {ended.out[-300:]!r}")
    trial.stopped(0)
    return trial.finish()


def unheard(trial: Trial, moment: float | None) -> Found:
    """Close what reads its output after so many seconds, or (None) let it write to a full device. It goes on."""
    out = "/dev/full"
    if moment is not None:
        out = str(trial.folder / "pipe")
        os.mkfifo(out)
        reader = threading.Thread(target=_read_for, args=(out, moment))
        reader.start()
    ended = trial.bench.server.run(trial.command(), trial.folder, out=out, err=out)
    if moment is not None:
        reader.join()
    trial.expect(ended, 0)
    trial.stopped(0)
    return trial.finish()


def _read_for(pipe: str, seconds: float) -> None:
    with open(pipe, "rb", buffering=0) as stream:  # noqa: PTH123
        time.sleep(seconds)
        stream.read(1)


def disputed(trial: Trial) -> Found:
    """A second process that wants the folder, to begin or to resume, is told who has it, and harms nobody."""
    first = trial.bench.server.start(trial.command(), trial.folder)
    while not cases.begun(trial.folder):
        time.sleep(0.01)
    for command in (trial.bench.first(trial.recipe), trial.command()):
        second = trial.bench.server.run(command, trial.folder)
        trial.expect(second, MISTAKE)
        told = f"belongs to process {first.pid} on " in second.err or "holds a run already" in second.err
        if len(second.err.splitlines()) != 1 or not told:
            trial.fault(f"the second said {second.err!r}")
    trial.expect(first.wait(), 0)
    trial.stopped(0)
    return trial.finish()
