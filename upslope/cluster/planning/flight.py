"""What is under way in a simulated cluster: problems with places, attempts that are written, groups that are ready."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from upslope.cluster.planning.setup import SimulatedSetup
from upslope.cluster.slots import Slots

if TYPE_CHECKING:
    import simpy


@dataclass(frozen=True)
class AttemptPiece:
    """Attempts of one problem that go to one sampler."""

    problem: int
    samples: tuple[int, ...]


@dataclass
class OpenProblem:
    """A problem that has a place and was not learnt from."""

    left: set[int]
    """Attempts that are not finished and scored."""
    versions: dict[int, int] = field(default_factory=dict)
    """By attempt: the weights that its sampler had when it began, the last time it did."""
    tokens: int = 0


class TakesPieces(Protocol):
    """A sampler, as whoever hands out work sees it."""

    version: int

    @property
    def num_rows(self) -> int: ...

    def take(self, piece: AttemptPiece) -> None: ...
    def told(self) -> None: ...
    def drop(self) -> None: ...


class Flight:
    """The scheduler: ``Slots`` says how many problems may begin, the one with the fewest attempts takes the next ones.

    Problems are numbered in the order in which they begin, and step k learns from numbers k P to k P + P - 1, whoever
    is ready first: else a long attempt could be overtaken for ever, and nothing would bound its age. A sampler gets
    new work only with the newest weights.
    """

    def __init__(self, env: simpy.Environment, setup: SimulatedSetup) -> None:
        self.env, self.setup = env, setup
        self.samplers: Sequence[TakesPieces] = ()
        self.slots = Slots(setup.staleness, setup.problems)
        self.version = 0
        """Updates done."""
        self.saved = 0
        self.epoch = 0
        """How often the run went back to a checkpoint."""
        self.stopped = False
        self.open: dict[int, OpenProblem] = {}
        self.ready: dict[int, int] = defaultdict(int)
        """By step: problems that can be learnt from."""
        self.learnt: list[int] = []
        self.ages: list[int] = []
        """By problem learnt from: updates between the oldest weights that began one of its attempts and its own."""
        self.tokens: list[int] = []
        """By update: response tokens."""
        self.wanted: simpy.Event = env.event()
        """What the learner waits for."""
        self._queue: deque[AttemptPiece] = deque()
        self._begun = 0
        self._due = False
        self._scorers: Any = None

    # -- handing out ------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Hand out work as soon as all that happens at this moment has happened."""
        if not self._due and not self.stopped and (self._queue or self.slots.free):
            self._due = True
            self.env.process(self._hand_out())

    def _hand_out(self) -> Generator[Any, Any, None]:
        yield self.env.timeout(0)
        self._due = False
        if self.stopped:
            return
        current = [(s.num_rows, i) for i, s in enumerate(self.samplers) if s.version == self.version]
        heapq.heapify(current)
        while current:
            rows, i = current[0]
            if rows + self.setup.piece > self.setup.rows and rows:
                return
            piece = self._next()
            if piece is None:
                return
            for sample in piece.samples:
                self.open[piece.problem].versions[sample] = self.version
            self.samplers[i].take(piece)
            heapq.heapreplace(current, (rows + len(piece.samples), i))

    def _next(self) -> AttemptPiece | None:
        if not self._queue and self.slots.begin(1):
            problem, size = self._begun, self.setup.group_size
            self._begun += 1
            self.open[problem] = OpenProblem(set(range(size)))
            for first in range(0, size, self.setup.piece):
                self._queue.append(AttemptPiece(problem, tuple(range(first, min(size, first + self.setup.piece)))))
        return self._queue.popleft() if self._queue else None

    def lost(self, pieces: Iterable[AttemptPiece]) -> None:
        """A sampler failed with these in hand: they are made again before anything else begins."""
        self._queue.extendleft(pieces)
        self.wake()

    # -- finished ---------------------------------------------------------------------------------------------------

    def finished(self, problem: int, sample: int, tokens: int) -> None:
        """An attempt is written; it is scored, and its problem may be ready then."""
        self.open[problem].tokens += tokens
        if self.setup.reward_seconds:
            self.env.process(self._score(problem, sample, self.epoch))
        else:
            self._scored(problem, sample)

    def _score(self, problem: int, sample: int, epoch: int) -> Generator[Any, Any, None]:
        if self._scorers is None and self.setup.rewards:
            import simpy

            self._scorers = simpy.Resource(self.env, capacity=self.setup.rewards)
        if self._scorers is None:
            yield self.env.timeout(self.setup.reward_seconds)
        else:
            with self._scorers.request() as place:
                yield place
                yield self.env.timeout(self.setup.reward_seconds)
        if epoch == self.epoch:
            self._scored(problem, sample)

    def _scored(self, problem: int, sample: int) -> None:
        self.open[problem].left.remove(sample)  # KeyError: it was there already
        if not self.open[problem].left:
            step = problem // self.setup.problems
            self.ready[step] += 1
            if step == self.version and self.is_ready() and not self.wanted.triggered:
                self.wanted.succeed()

    # -- learnt -----------------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether the next step has all its problems."""
        return self.ready[self.version] == self.setup.problems

    def next_problems(self) -> range:
        first = self.version * self.setup.problems
        return range(first, first + self.setup.problems)

    def num_tokens(self) -> int:
        """Response tokens of the next step."""
        return sum(self.open[problem].tokens for problem in self.next_problems())

    def learn(self) -> None:
        """The update is done: its problems give back their places, and the samplers hear of new weights."""
        self.tokens.append(self.num_tokens())
        for problem in self.next_problems():
            self.ages.append(self.version - min(self.open.pop(problem).versions.values()))
            self.learnt.append(problem)
        del self.ready[self.version]
        self.slots.learnt(self.setup.problems)
        self.version += 1
        if self.version % self.setup.save_every == 0:
            self.saved = self.version
        for sampler in self.samplers:
            sampler.told()
        self.wake()

    def go_back(self) -> int:
        """The learner failed: all goes on from the last checkpoint. Returns how many updates are to be made again."""
        lost = self.version - self.saved
        self.epoch, self.version, self.stopped = self.epoch + 1, self.saved, True
        num = self.saved * self.setup.problems
        del self.learnt[num:], self.ages[num:], self.tokens[self.saved :]
        self.slots, self._begun = Slots(self.setup.staleness, self.setup.problems), num
        self.open.clear()
        self.ready.clear()
        self._queue.clear()
        for sampler in self.samplers:
            sampler.drop()
        return lost
