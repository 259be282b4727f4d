"""Several ranks in one process, each a thread: for tests of whatever is summed and gathered.

They work in turns, one until it waits for the others: what torch keeps for a whole process (which kernels attention may
take, say) is then never another rank's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Barrier, Lock, Thread
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from upslope.learn.ranks import own_passes, share_of
from upslope.types import Batch

T = TypeVar("T")


class StandIn:
    """One of the ranks that ``on_stand_ins`` makes; see ``upslope.learn.ranks.Ranks``."""

    def __init__(self, rank: int, table: _Table[Any]) -> None:
        self.rank, self.size, self._table = rank, table.size, table

    def share(self, batch: Batch) -> Batch:
        return share_of(batch, self.rank, self.size)

    def passes(self, parts: Iterable[Batch], whole: Batch) -> Iterator[tuple[Batch, bool]]:
        return own_passes(parts)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        for tensor, parts in zip(
            tensors, zip(*self.gather([t.detach().clone() for t in tensors]), strict=True), strict=True
        ):
            with torch.no_grad():
                tensor.copy_(torch.stack(parts).sum(dim=0))

    def gather(self, value: T) -> list[T]:
        return self._table.exchange(self.rank, value)


class _Table(Generic[T]):
    """Where ranks lay down what they give, and take what all have given."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._given: list[Any] = [None] * size
        self._barrier = Barrier(size)
        self.turn = Lock()
        """Held by whoever works."""

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._given[rank] = value
        self._meet()
        taken = list(self._given)
        self._meet()  # nobody lays down the next before all have taken this
        return taken

    def _meet(self) -> None:
        self.turn.release()
        try:
            self._barrier.wait(timeout=60)
        finally:
            self.turn.acquire()

    def leave(self) -> None:
        self._barrier.abort()


def on_stand_ins(size: int, work: Callable[[StandIn], T]) -> list[T]:
    """What ``work`` returns on each of ``size`` ranks, by rank. Raises what the first of them raised."""
    table: _Table[Any] = _Table(size)
    found: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        with table.turn:
            try:
                found[rank] = work(StandIn(rank, table))
            except BaseException as error:  # the thread that waits raises it
                errors.append(error)
                table.leave()

    threads = [Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found
