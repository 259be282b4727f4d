"""One run that is ended in some way, resumed to its end, and held against the run that nothing ended."""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash import cases
from crash.cases import EVERY, RUN, Bench
from crash.forks import Ended, Tap


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

    def one_line(self, ended: Ended) -> None:
        """What is wrong is said in one line."""
        if len(ended.err.splitlines()) != 1 or not ended.err.startswith("upslope: "):
            self.fault(f"not one line: {ended.err!r}")

    def finish(self, *, keep: bool = False) -> Found:
        """Resume to the end, also after a kill that came when all was done, and compare; what is as it should be is
        deleted, or kept."""
        if self.killed or cases.saved(self.folder) < cases.STEPS or not (self.folder / RUN / "report.png").exists():
            self.expect(self.bench.server.run(self.command(), self.folder), 0)
        if not self.found.faults:
            self.compare()
        if not self.found.faults and not keep:
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
