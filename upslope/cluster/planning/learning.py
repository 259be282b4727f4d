"""A simulated learner: it waits for a step's problems, updates, and goes back to a checkpoint when it fails."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from upslope.cluster.planning.flight import Flight
from upslope.cluster.planning.meter import StateMeter
from upslope.cluster.planning.times import Learned

if TYPE_CHECKING:
    import simpy


class SimulatedLearner:
    """All ranks as one: they wait for each other in every update, so one that fails ends them all."""

    def __init__(self, flight: Flight, done: Callable[[], None]) -> None:
        """``done`` is called after every update."""
        self.flight, self.env = flight, flight.env
        self.failures = self.lost = 0
        """Failures, and updates that were made again because of them."""
        self.meter = StateMeter("waiting")
        self._done, self._failed = done, False
        self.process: simpy.Process = self.env.process(self._run())

    def fail(self) -> None:
        """Nothing happens to a learner that is down."""
        if not self._failed and self.process.is_alive:
            self._failed = True
            self.process.interrupt()

    def _run(self) -> Generator[Any, Any, None]:
        import simpy

        flight = self.flight
        while flight.version < flight.setup.steps:
            try:
                yield from self._step()
                flight.learn()
                self._done()
            except simpy.Interrupt:
                yield from self._restart()

    def _step(self) -> Generator[Any, Any, None]:
        flight, setup = self.flight, self.flight.setup
        if not flight.is_ready():
            self.meter.turn("waiting", self.env.now)
            flight.wanted = self.env.event()
            yield flight.wanted
        learned = Learned(setup.problems, setup.prompt, setup.problems * setup.group_size, flight.num_tokens())
        self.meter.turn("updating", self.env.now)
        yield self.env.timeout(setup.times.update(learned, setup.ranks, shard=setup.shard))

    def _restart(self) -> Generator[Any, Any, None]:
        self.failures += 1
        self.lost += self.flight.go_back()
        self.meter.turn("down", self.env.now)
        yield self.env.timeout(self.flight.setup.restart_seconds)
        self._failed = self.flight.stopped = False
        for sampler in self.flight.samplers:
            sampler.told()
        self.flight.wake()


def readings(meters: Mapping[str, StateMeter], now: float) -> dict[str, Mapping[str, float]]:
    """What every meter says now."""
    return {name: meter.read(now) for name, meter in meters.items()}
