"""Which workers sample and which learn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from upslope.cluster.planning.memory import RESERVED, RowSizes, affordable_rows, in_all, learner_parts
from upslope.cluster.planning.sizes import ModelSizes
from upslope.cluster.planning.times import Learned, WorkTimes


@dataclass(frozen=True)
class WorkerSplit:
    """``samplers`` + ``ranks`` workers; without samplers the learner samples too."""

    samplers: int
    ranks: int
    shard: bool


@dataclass(frozen=True)
class SplitFinder:
    """Splits a number of workers so that a step is fastest by arithmetic, among those that fit the memory."""

    sizes: ModelSizes
    times: WorkTimes
    element: int
    work: RowSizes
    problems: int
    mean: float
    """Tokens of an attempt."""
    most_rows: int
    memory: float | None
    """Bytes of a worker; None: unknown, so that everything fits."""
    shard: bool | None

    def split(self, workers: int, staleness: int) -> WorkerSplit:
        """The best; of several that do not fit, the one that holds the least."""
        found = list(self._all(workers))
        fitting = [split for split in found if self.fits(split)]
        if not fitting:
            return min(found, key=lambda split: self.learner_bytes(split))
        return min(fitting, key=lambda split: self._seconds(split, staleness))

    def _all(self, workers: int) -> Iterator[WorkerSplit]:
        if workers == 1:
            yield WorkerSplit(0, 1, False)
            return
        ranks = 1
        while ranks < workers:
            for shard in (False, True) if self.shard is None else (self.shard,):
                if ranks > 1 or not shard:
                    yield WorkerSplit(workers - ranks, ranks, shard)
            ranks *= 2

    def learner_bytes(self, split: WorkerSplit) -> int:
        """What a rank holds; a sampler's parts too where there is no sampler."""
        return in_all(learner_parts(self.sizes, self.element, self.work, split.ranks, shard=split.shard))

    @property
    def room(self) -> float | None:
        """Bytes that a plan may use of a worker."""
        return None if self.memory is None else self.memory * (1 - RESERVED)

    def rows(self, split: WorkerSplit) -> int:
        """Attempts that a sampler can have in hand."""
        if self.room is None:
            return self.most_rows
        beside = 0 if split.samplers else self.learner_bytes(split) - self.element * self.sizes.weights
        return affordable_rows(self.sizes, self.element, self.work, self.room - beside, self.most_rows)

    def fits(self, split: WorkerSplit) -> bool:
        return self.room is None or (self.learner_bytes(split) <= self.room and self.rows(split) > 0)

    def _seconds(self, split: WorkerSplit, staleness: int) -> float:
        attempts = self.problems * self.work.group
        writers = max(split.samplers, 1)
        rows = max(1, min(self.rows(split), -(-attempts * (staleness + 1) // writers)))
        held = rows * (self.work.prompt / self.work.group + self.mean / 2)
        position = self.times.position(rows, held)
        prompts = self.problems / writers * self.times.prompt(self.work.prompt)
        sampling = max(attempts * self.mean / writers / rows, self.mean) * position + prompts
        learned = Learned(self.problems, self.work.prompt, attempts, round(attempts * self.mean))
        learning = self.times.update(learned, split.ranks, shard=split.shard)
        loading = self.times.transfer(split.samplers)
        return max(sampling + loading, learning) if staleness else sampling + learning + loading
