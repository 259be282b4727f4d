"""Requests that wait for a row, and those that are still to come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from upslope.rollout.base import More, Request
from upslope.rollout.running import Queued


class RequestQueue:
    """The requests of one ``generate``, in the order in which they were given."""

    def __init__(
        self, requests: Sequence[Request], more: More | None, check: Callable[[Sequence[Request]], None]
    ) -> None:
        """``check`` is called with whatever ``more`` gives, and may raise."""
        self._waiting = deque(Queued(place, request) for place, request in enumerate(requests))
        self._more, self._check, self._num = more, check, len(requests)

    def __len__(self) -> int:
        return len(self._waiting)

    def has_next(self, *, idle: bool) -> bool:
        """Whether a request waits, after taking in what has come. ``idle``: nothing is being written, so this waits
        until one comes, or there will be no more."""
        if self._more is not None:
            late = self._more(idle and not self._waiting)
            if late is None:
                self._more = None
            else:
                self._check(late)
                self._waiting.extend(Queued(self._num + i, request) for i, request in enumerate(late))
                self._num += len(late)
        return bool(self._waiting)

    def take(self) -> Queued:
        """The next one."""
        return self._waiting.popleft()
