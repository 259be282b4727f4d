"""Two things at once: a job works in another thread, and this one takes what it hands over as it comes."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Job = Callable[["Outlet[Item]"], object]

MOMENT = 0.1
"""Seconds: all waiting is done in such slices, because a Ctrl-C that comes just before a wait is seen only after it."""


class Left(Exception):
    """Nobody takes what the job hands over any more."""


class Outlet(Generic[Item]):
    """Where a job puts what it has made. ``put`` and ``check`` are for the job, in its thread."""

    def __init__(self) -> None:
        self._made: SimpleQueue[list[Item] | None] = SimpleQueue()  # None comes last
        self._num_threads = torch.get_num_threads()
        self._error: BaseException | None = None
        self._left = False
        self.ended = False

    def put(self, item: Item) -> None:
        """Hand it over; does not wait for anybody to take it."""
        self._made.put([item])

    def check(self) -> None:
        """Raise Left, which ends the job, if nobody waits for it any more. To be called often."""
        if self._left:
            raise Left

    def work(self, job: Job[Item]) -> None:
        """Do the job, in the thread that calls, with as many threads as torch has in the one that made this."""
        try:
            if torch.get_num_threads() != self._num_threads:  # set in one thread, it does not hold in an older one
                torch.set_num_threads(self._num_threads)
            job(self)
        except BaseException as error:  # whatever it is, the thread that waits raises it
            self._error = error
        finally:
            self._made.put(None)

    def take(self) -> list[Item]:
        """Everything that was put and not taken yet; nothing, if nothing comes for a moment. Raises what the job
        raised, once it has ended."""
        found: list[Item] = []
        try:
            more = self._made.get(timeout=MOMENT)
            while more is not None:
                found += more
                more = self._made.get_nowait()
            self.ended = True
        except Empty:
            pass
        if self._error is not None and self.ended and not self._left:
            raise self._error
        return found

    def leave(self) -> None:
        """Tell the job to stop, and wait until it has."""
        self._left = True
        while not self.ended:
            self.take()


def beside(job: Job[Item]) -> Generator[list[Item], None, None]:
    """Do ``job`` in another thread; yields, in this one, what it has put since, in order, at least every tenth of a
    second (an empty list if there is nothing). Raises what the job raises.

    Whoever stops early closes the generator: the job is then told to stop at its next ``check``, and waited for.

    >>> def count(outlet):
    ...     for number in range(3):
    ...         outlet.put(number)
    >>> [number for numbers in beside(count) for number in numbers]
    [0, 1, 2]
    """
    outlet: Outlet[Item] = Outlet()
    jobs, work = _worker(os.getpid()), functools.partial(outlet.work, job)
    jobs.put(work)
    try:
        while not outlet.ended:
            yield outlet.take()
    finally:
        outlet.leave()


@functools.cache
def _worker(process: int) -> SimpleQueue[Callable[[], None]]:
    """The queue of the one other thread of this process. It is kept, because torch's threads and the memory that was
    freed belong to the thread that used them."""
    jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
    Thread(target=_serve, args=(jobs,), name=f"beside-{process}", daemon=True).start()
    return jobs


def _serve(jobs: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        jobs.get()()  # no name is given to the job, so that nothing of it outlives it here
