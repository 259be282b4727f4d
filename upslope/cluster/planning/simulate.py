"""A cluster as a simulation of discrete events (simpy): the run's own rule for places, drawn lengths, failures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from upslope.cluster.planning.flight import Flight
from upslope.cluster.planning.learning import SimulatedLearner, readings
from upslope.cluster.planning.meter import since
from upslope.cluster.planning.outcome import SimulatedRun
from upslope.cluster.planning.sampling import SimulatedSampler
from upslope.cluster.planning.setup import SimulatedSetup
from upslope.errors import UserError

if TYPE_CHECKING:
    import simpy

SAMPLER = ("writing", "prompts", "loading", "idle", "down")
LEARNER = ("updating", "waiting", "down")
MOST_FAILURES = 200
"""For every update: a cluster that fails more often than this gets nowhere."""


def simulate(setup: SimulatedSetup) -> SimulatedRun:
    """Run the cluster for ``setup.steps`` updates.

    Raises UserError without simpy, and for a cluster that fails faster than it learns.
    """
    try:
        import simpy
    except ImportError:
        raise UserError(
            "a plan is simulated with the package simpy: pip install 'upslope[plan]', or pip install simpy"
        ) from None
    return _Cluster(simpy.Environment(), setup).run()


class _Cluster:
    def __init__(self, env: simpy.Environment, setup: SimulatedSetup) -> None:
        self.env, self.setup = env, setup
        self.flight = Flight(env, setup)
        transfer = setup.times.transfer(setup.samplers)
        self.samplers: list[SimulatedSampler] = [
            SimulatedSampler(self.flight, transfer) for _ in range(max(setup.samplers, 1))
        ]
        self.flight.samplers = self.samplers
        self.learner = SimulatedLearner(self.flight, self._updated)
        self.times: list[float] = []
        self._warm = min(setup.staleness + 1, setup.steps - 1)
        """Updates after which samplers are as far ahead as they ever are."""
        self._before: dict[str, Mapping[str, float]] = {}
        self._enough: simpy.Event = env.event()
        self._since = 0.0

    def run(self) -> SimulatedRun:
        setup = self.setup
        if setup.hours_between_failures:
            if setup.samplers:
                for i, sampler in enumerate(self.samplers):
                    self.env.process(self._failing(f"sampler {i}", 1, sampler.fail))
            self.env.process(self._failing("learner", setup.ranks, self.learner.fail))
        self.flight.wake()
        self.env.run(until=self.learner.process | self._enough)
        if self._enough.triggered:
            raise UserError(
                f"the cluster gets nowhere: its {setup.workers} workers failed {self._num_failures:,} times in "
                f"{self.flight.version} updates; raise --hours-between-failures, or lower --save-every"
            )
        return self._outcome()

    @property
    def _num_failures(self) -> int:
        return self.learner.failures + sum(s.failures for s in self.samplers)

    def _failing(self, name: str, workers: int, fail: Callable[[], None]) -> Generator[Any, Any, None]:
        """Failures after times of an exponential distribution, each worker on its own."""
        draws = Random(f"{self.setup.seed} {name}")
        rate = workers / (3600 * self.setup.hours_between_failures)
        while True:
            yield self.env.timeout(draws.expovariate(rate))
            fail()
            most = MOST_FAILURES * self.setup.steps * self.setup.workers
            if self._num_failures > most and not self._enough.triggered:
                self._enough.succeed()

    def _updated(self) -> None:
        """An update is done; of one that is made again, the last time counts."""
        del self.times[self.flight.version - 1 :]
        self.times.append(self.env.now)
        if self.flight.version == self._warm and not self._before:
            self._before, self._since = self._read(), self.env.now

    def _read(self) -> dict[str, Mapping[str, float]]:
        meters = {f"sampler {i}": s.meter for i, s in enumerate(self.samplers)} | {"learner": self.learner.meter}
        return readings(meters, self.env.now)

    def _outcome(self) -> SimulatedRun:
        setup, flight, warm = self.setup, self.flight, self._warm
        passed = {name: since(now, self._before.get(name, {})) for name, now in self._read().items()}
        learner = passed.pop("learner")
        sampler: dict[str, float] = defaultdict(float)
        for one in passed.values():
            for state, seconds in one.items():
                sampler[state] += seconds
        whole = self.env.now - self._since
        writing = sampler["writing"]
        return SimulatedRun(
            workers=setup.workers,
            samplers=setup.samplers,
            ranks=setup.ranks,
            staleness=setup.staleness,
            steps=setup.steps - warm,
            seconds_a_step=whole / (setup.steps - warm),
            tokens_per_s=sum(flight.tokens[warm:]) / whole,
            learner={state: learner.get(state, 0.0) / whole for state in LEARNER},
            sampler={state: sampler[state] / whole / len(self.samplers) for state in SAMPLER},
            rows=sampler["rows"] / writing if writing else 0.0,
            ages=Counter(flight.ages),
            sampler_failures=sum(s.failures for s in self.samplers),
            learner_failures=self.learner.failures,
            steps_lost=self.learner.lost,
            learnt=tuple(flight.learnt),
            times=tuple(self.times),
        )
