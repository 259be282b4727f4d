"""What a worker did with its time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


class StateMeter:
    """Seconds by state, and while a sampler writes, seconds times the attempts in hand.

    >>> meter = StateMeter("idle")
    >>> meter.turn("writing", 2.0, rows=10)
    >>> meter.turn("idle", 5.0)
    >>> meter.read(6.0)["writing"], meter.read(6.0)["idle"], meter.read(6.0)["rows"]
    (3.0, 3.0, 30.0)
    """

    def __init__(self, state: str) -> None:
        self.state = state
        self._seconds: dict[str, float] = defaultdict(float)
        self._since, self._rows = 0.0, 0

    def turn(self, state: str, now: float, rows: int = 0) -> None:
        """From now on another state."""
        self._close(now)
        self.state, self._rows = state, rows

    def read(self, now: float) -> Mapping[str, float]:
        """All until now."""
        self._close(now)
        return dict(self._seconds)

    def _close(self, now: float) -> None:
        passed = now - self._since
        self._seconds[self.state] += passed
        self._seconds["rows"] += passed * self._rows
        self._since = now


def since(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What came in between two readings."""
    return {key: value - before.get(key, 0.0) for key, value in now.items()}
