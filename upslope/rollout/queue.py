"""Requests that wait for a row, and those that are still to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence

from upslope.rollout.base import More, Request
from upslope.rollout.running import Queued


class RequestQueue:
    """The requests of one ``generate``, in the order in which they were given."""

    def __init__(
        self, requests: Sequence[Request], more: More | None, check: Callable[[Sequence[Request]], None]
    ) -> None:
        """``check`` is called with whatever ``more`` gives, and may raise."""
        self._all = [Queued(place, request) for place, request in enumerate(requests)]
        self._waiting = deque(self._all)
        self._more, self._check = more, check

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._waiting)

    @property
    def grows(self) -> bool:
        """Whether there can be others than those that wait now."""
        return self._more is not None

    def has_next(self, *, idle: bool) -> bool:
        """Whether a request waits, after taking in what has come. ``idle``: nothing is being written, so this waits
        until one comes, or there will be no more."""
        if self._more is not None:
            late = self._more(idle and not self._waiting)
            if late is None:
                self._more = None
            else:
                self._check(late)
                new = [Queued(len(self._all) + i, request) for i, request in enumerate(late)]
                self._all += new
                self._waiting.extend(new)
        return bool(self._waiting)

    def take(self) -> Queued:
        """The next one."""
        return self._waiting.popleft()

    def begin_anew(self, done: Container[int]) -> None:
        """All requests wait again but those at these places."""
        self._waiting = deque(queued for queued in self._all if queued.place not in done)
