"""Many trials of one recipe: when and where each is ended is drawn from a seed."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crash import cases, endings
from crash.cases import RUN, Bench
from crash.forks import FULL, FULL_ONCE, HALF, KILL, Tap
from crash.trials import Found, Trial

LONGEST_CHAIN = 8
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Campaign:
    """Trials of a recipe, held against a run of it that nothing ended."""

    def __init__(self, bench: Bench, recipe: str, seed: int = 0) -> None:
        self.bench, self.recipe = bench, recipe
        self._changes: dict[tuple[bool, Path | None], list[str]] = {}
        self._draw = random.Random(f"{seed} {recipe}")
        self.place = bench.trial(f"{recipe}-whole")
        ended = bench.server.run(bench.first(recipe), self.place)
        assert ended.code == 0 and ended.err == "", ended
        self.whole: dict[str, Any] = cases.contents(self.place)
        self.seconds = ended.seconds

    def trial(self, label: str, start: Path | None = None) -> Trial:
        return Trial(self.bench, self.recipe, label, self.whole, start)

    def moment(self) -> float:
        """Some time while a run lasts, or shortly after."""
        return self._draw.uniform(0, 1.1 * self.seconds)

    def kills(self, num: int) -> Iterator[Found]:
        """Chains of SIGKILL at random moments, until there were so many."""
        made, numbers = 0, itertools.count(1)
        while made < num:
            moments = [self.moment() for _ in range(min(LONGEST_CHAIN, num - made))]
            found = endings.killed(self.trial(f"chain {next(numbers)}"), moments)
            made += found.stops
            yield found

    def kills_afresh(self, num: int) -> Iterator[Found]:
        for number in range(num):
            yield endings.killed_afresh(self.trial(f"afresh {number}"), self.moment())

    def kills_at_changes(self, every: int, *, resumed: bool = False) -> Iterator[Found]:
        """SIGKILL before every (n-th) change, and in the middle of every (n-th) write: of the whole run, or of one that
        goes on after a kill just before its second checkpoint."""
        start = self._stopped() if resumed else None
        changes = self.changes(KILL, start)
        writes = [at for at, change in enumerate(changes, 1) if change.startswith("write")]
        for what, places in ((KILL, list(range(1, len(changes) + 1))), (HALF, writes)):
            for at in places[self._draw.randrange(every) :: every]:
                label = f"{'half ' * (what == HALF)}{'resumed ' * resumed}{at} {changes[at - 1]}"
                yield endings.killed_at(self.trial(label, start), what, at)

    def full_disks(self, num: int) -> Iterator[Found]:
        """A full disk at calls that need room: so many where it stays full, and as many where it does not."""
        for what in (FULL, FULL_ONCE):
            calls = self.changes(what)
            for at in sorted(self._draw.sample(range(1, len(calls) + 1), min(num, len(calls)))):
                label = f"{'full' if what == FULL else 'full once'} {at} {calls[at - 1]}"
                yield endings.full_at(self.trial(label), what, at)

    def small_disks(self, num: int) -> Iterator[Found]:
        """Disks of so many sizes, from next to nothing to what is nearly enough."""
        enough = sum(file.stat().st_size for file in (self.place / RUN).rglob("*") if file.is_file()) // 1024
        for number in range(num):
            room = max(16, round(1.3 * enough * (number + self._draw.random()) / num))
            yield endings.really_full(self.trial(f"disk {room}"), room)

    def signals(self, number: int, num: int) -> Iterator[Found]:
        for count in range(num):
            yield endings.signalled(self.trial(f"signal {number} {count}"), number, self.moment())

    def unheard(self, num: int) -> Iterator[Found]:
        """Closed pipes; the last is a full device."""
        for count in range(num):
            yield endings.unheard(self.trial(f"unheard {count}"), None if count == num - 1 else self.moment())

    def disputed(self) -> Iterator[Found]:
        yield endings.disputed(self.trial("disputed"))

    def changes(self, what: int, start: Path | None = None) -> list[str]:
        """Every change below the folder, in order, that a run (or one that goes on from ``start``) makes and ``what``
        counts; the first word is the call."""
        key = (what in (FULL, FULL_ONCE), start)
        if key not in self._changes:
            self._changes[key] = self._counted(what, start)
        return self._changes[key]

    def _counted(self, what: int, start: Path | None) -> list[str]:
        folder = self.bench.trial(f"{self.recipe}-changes-{what}-{start is not None}")
        if start is not None:
            shutil.copytree(start, folder, dirs_exist_ok=True)
        log = folder / "log"
        tap = Tap(folder / RUN, what, 0, str(log))
        ended = self.bench.server.run(self.bench.next(self.recipe, folder), folder, tap)
        assert ended.code == 0, ended
        found = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
        shutil.rmtree(folder)
        return found

    def _stopped(self) -> Path:
        """A run that was killed before its second checkpoint was there."""
        second = f"rename /checkpoints/step-{2 * cases.EVERY:06d}"
        at = self.changes(KILL).index(second) + 1
        stopped = self.trial("stopped")
        ended = self.bench.server.run(stopped.command(), stopped.folder, stopped.tap(KILL, at))
        assert ended.code == -signal.SIGKILL, ended
        return stopped.folder
