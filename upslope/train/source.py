"""Which problems a step works on: a function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from upslope.rollout.address import Address

T = TypeVar("T")


class Shuffled(Sequence[T]):
    """Endless passes over ``items``, each in an order of its own: item number i is a function of (seed, i)."""

    def __init__(self, items: Sequence[T], seed: int, purpose: str) -> None:
        self._items = items
        self._address = (seed, purpose)
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> T:  # type: ignore[override]
        epoch, place = divmod(index, len(self._items))
        if self._order[0] != epoch:
            seed, purpose = self._address
            self._order = (epoch, Address(seed, purpose, epoch).permutation(len(self._items)))
        return self._items[self._order[1][place]]

    def take(self, step: int, num: int) -> list[T]:
        """The ``num`` items of a step."""
        return [self[i] for i in range(step * num, (step + 1) * num)]
