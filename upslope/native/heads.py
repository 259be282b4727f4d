"""The shape of attention's heads."""

from __future__ import annotations

from typing import NamedTuple


class Heads(NamedTuple):
    """H query heads and J key heads of depth D.

    >>> Heads(num=4, num_keys=2, depth=16, scale=0.25).columns
    128
    """

    num: int
    num_keys: int
    """J divides H: H / J queries read one key."""
    depth: int
    scale: float
    """What q . k is multiplied by; usually 1 / sqrt(depth)."""

    @property
    def columns(self) -> int:
        """Of a token's queries, keys and values together."""
        return (self.num + 2 * self.num_keys) * self.depth


def require_heads_fit(width: int, first: int, num_heads: int, depth: int) -> None:
    """Raise ValueError unless a row holds these heads."""
    if first < 0 or first + num_heads * depth > width:
        raise ValueError(f"a row of {width} does not hold {num_heads} heads of {depth} from column {first} on")
