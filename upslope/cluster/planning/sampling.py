"""A simulated sampler: attempts that advance together, one token a position."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from upslope.cluster.planning.flight import AttemptPiece, Flight
from upslope.cluster.planning.meter import StateMeter

if TYPE_CHECKING:
    import simpy

NO_WEIGHTS = -1
CLOSE = 1e-6
"""Positions: rounding of what was written before somebody called."""


class SimulatedSampler:
    """Writes what it is given. New weights are loaded at once, attempts under way go on with them; a failure loses the
    attempts that are not finished."""

    def __init__(self, flight: Flight, transfer: float) -> None:
        self.flight, self.env, self.transfer = flight, flight.env, transfer
        self.version, self.failures = 0, 0
        self.meter = StateMeter("idle")
        self._live: list[tuple[float, int, int, float]] = []
        """(position at which it ends, problem, sample, where its keys and values began), the first to end first."""
        self._given: list[AttemptPiece] = []
        self._position = self._begins = self._reading = 0.0
        self._up_again = 0.0
        self._called = False
        self.process: simpy.Process = self.env.process(self._run())

    @property
    def num_rows(self) -> int:
        return len(self._live) + sum(len(piece.samples) for piece in self._given)

    def take(self, piece: AttemptPiece) -> None:
        self._given.append(piece)
        self._call()

    def told(self) -> None:
        """There are new weights. Whoever is loading looks again when that is done."""
        if self.meter.state not in ("loading", "down"):
            self._call()

    def fail(self) -> None:
        """What is not finished is lost; nothing happens to one that is down."""
        if self.meter.state == "down":
            return
        self.failures += 1
        lost: dict[int, list[int]] = defaultdict(list)
        for _, problem, sample, _ in self._live:
            lost[problem].append(sample)
        pieces = [AttemptPiece(problem, tuple(samples)) for problem, samples in lost.items()]
        pieces += self._given
        self.drop()
        self._up_again = self.env.now + self.flight.setup.restart_seconds
        self.flight.lost(pieces)

    def drop(self) -> None:
        """Forget all attempts and weights."""
        self._live, self._given, self._reading, self._begins = [], [], 0.0, 0.0
        self.version = NO_WEIGHTS
        self._call()

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self.process.interrupt()

    def _run(self) -> Generator[Any, Any, None]:
        while True:
            self._called = False
            if self.env.now < self._up_again:
                yield from self._wait("down", self._up_again - self.env.now)
            elif self.version != self.flight.version and not self.flight.stopped:
                yield from self._load()
            elif self._begin() or self._reading:
                passed = yield from self._wait("prompts", self._reading)
                self._reading = max(0.0, self._reading - passed)
            elif self._live:
                yield from self._write()
            else:
                yield from self._wait("idle", None)

    def _wait(self, state: str, seconds: float | None, rows: int = 0) -> Generator[Any, Any, float]:
        """Be in a state until the seconds are over or somebody calls; returns the seconds that passed."""
        import simpy

        self.meter.turn(state, self.env.now, rows)
        start = self.env.now
        try:
            yield self.env.event() if seconds is None else self.env.timeout(seconds)
        except simpy.Interrupt:
            return float(self.env.now - start)
        return float(self.env.now - start) if seconds is None else seconds

    def _load(self) -> Generator[Any, Any, None]:
        wanted, epoch = self.flight.version, self.flight.epoch
        yield from self._wait("loading", self.transfer)
        if not self._called and epoch == self.flight.epoch:
            self.version = wanted
            self.flight.wake()

    def _begin(self) -> bool:
        """Take up what was given; returns whether there are prompts to read."""
        setup = self.flight.setup
        for piece in self._given:
            start = self._position - setup.prompt / len(piece.samples)  # the prompt once for all of them
            for sample in piece.samples:
                ends = self._position + setup.lengths.of(piece.problem, sample)
                heapq.heappush(self._live, (ends, piece.problem, sample, start))
                self._begins += start
            self._reading += setup.times.prompt(setup.prompt)
        self._given = []
        return self._reading > 0

    def _write(self) -> Generator[Any, Any, None]:
        """Up to the end of the next attempt, or until somebody calls."""
        rows, to = len(self._live), self._live[0][0]
        num = to - self._position
        held = rows * (self._position + num / 2) - self._begins
        seconds = num * self.flight.setup.times.position(rows, held)
        passed = yield from self._wait("writing", seconds, rows)
        self._position = to if passed >= seconds else self._position + num * passed / seconds
        self._end()

    def _end(self) -> None:
        num = len(self._live)
        while self._live and self._live[0][0] <= self._position + CLOSE:
            _, problem, sample, start = heapq.heappop(self._live)
            self._begins -= start
            self.flight.finished(problem, sample, self.flight.setup.lengths.of(problem, sample))
        if len(self._live) < num:
            self.flight.wake()
