"""From which reward on an attempt is right."""

from __future__ import annotations

FULL_MARKS = 1.0
"""The reward from which on an attempt is right, unless a task says otherwise."""
NEARLY = 1e-6
"""How much less is still as much: 0.7 + 0.2 + 0.1 is less than 1 in floating point."""


def comes_to(value: float, least: float) -> bool:
    """Whether a reward is at least so much, up to rounding.

    >>> comes_to(0.7 + 0.2 + 0.1, 1.0), comes_to(0.999, 1.0)
    (True, False)
    """
    return value >= least - NEARLY * max(1.0, abs(least))
