"""Which problems a step works on: a function of (seed, step), so that a resumed run sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.tasks.base import Shares, Task
from upslope.text.order import Mixture
from upslope.types import Problem

T = TypeVar("T")
Order = Literal["shuffled", "file"]


def pool_of(task: Task, kind: str) -> Sequence[Any]:
    """The task's training problems, demonstrations or documents. Raises UserError if there are none."""
    find: dict[str, Callable[[], Sequence[Any]]] = {
        "training problems": lambda: task.problems("train"),
        "demonstrations": task.demonstrations,
        "documents": task.documents,
    }
    found = find[kind]()
    if not found:
        mend = " (--text gives it some)" if kind == "documents" else ""
        raise UserError(f"task {task.name} has no {kind}; this recipe needs some{mend}")
    return found


class Shuffled(Generic[T]):
    """Endless passes over ``items``, each in an order of its own. A step takes its share from one pass.

    What is left at the end of a pass, being less than a step, is left out: so no step holds an item twice, and two
    attempts of one step never share an address.
    """

    def __init__(self, items: Sequence[T], seed: int, purpose: str) -> None:
        """Raises nothing; ``purpose`` names the items in messages and in the address of their order."""
        self._items = items
        self._seed, self._purpose = seed, purpose
        self._order: tuple[int, list[int]] = (-1, [])

    def take(self, step: int, num: int) -> list[T]:
        """The ``num`` items of a step. Raises UserError if there are not that many."""
        _require_enough(num, len(self._items), self._purpose)
        epoch, place = divmod(step, len(self._items) // max(num, 1))
        if self._order[0] != epoch:
            self._order = (epoch, Address(self._seed, self._purpose, epoch).permutation(len(self._items)))
        return [self._items[i] for i in self._order[1][place * num : (place + 1) * num]]

    def others(self, step: int, taken: Sequence[T]) -> list[T]:
        """Everything but what the step has taken, in an order of the step's own: what to turn to when that was not
        enough. It does not advance the pass, so a resumed run sees the same."""
        order = Address(self._seed, f"{self._purpose}/others", step).permutation(len(self._items))
        return [item for item in (self._items[i] for i in order) if not any(item is t for t in taken)]


class FileOrder(Generic[T]):
    """Endless passes over ``items`` in their own order. A step goes on where the last one ended, also across the end of
    a pass: nothing is left out, and no step holds an item twice."""

    def __init__(self, items: Sequence[T], purpose: str) -> None:
        """``purpose`` names the items in messages."""
        self._items, self._purpose = items, purpose

    def take(self, step: int, num: int) -> list[T]:
        """The ``num`` items of a step. Raises UserError if there are not that many."""
        _require_enough(num, len(self._items), self._purpose)
        return [self._items[i % len(self._items)] for i in range(step * num, (step + 1) * num)]

    def others(self, step: int, taken: Sequence[T]) -> list[T]:
        """Everything but what the step has taken, from where that ends on."""
        begin = (step + 1) * len(taken)
        order = [self._items[i % len(self._items)] for i in range(begin, begin + len(self._items))]
        return [item for item in order if not any(item is t for t in taken)]


def _require_enough(num: int, there: int, purpose: str) -> None:
    if num > there:
        raise UserError(f"a step wants {num} {purpose}, and the task has {there}; set problems to that or less")


class MixedDemonstrations:
    """Demonstrations of several data sets, each with its share of all draws, so that what a step takes is a function of
    its number (``upslope.text.order.Mixture``). Within a data set there are endless passes, each in its own order;
    a small one with a large share is passed through more often.

    One half of a data set, the same in all passes, stands in each before the other half. So where a pass ends within a
    step, what the step takes of the next was not at the end of the last: it holds nothing twice, unless it takes more
    than half of a data set.
    """

    def __init__(self, shares: Shares, seed: int) -> None:
        self._rows = [rows for _, rows in shares]
        self._mixture, self._seed = Mixture([share for share, _ in shares]), seed
        self._orders: dict[int, tuple[int, list[int]]] = {}

    def take(self, step: int, num: int) -> list[Problem]:
        """The ``num`` demonstrations of a step, those of a data set together."""
        turns = sorted(self._mixture.turn(number) for number in range(step * num, (step + 1) * num))
        return [self._at(source, number) for source, number in turns]

    def _at(self, source: int, number: int) -> Problem:
        rows = self._rows[source]
        epoch, place = divmod(number, len(rows))
        if source not in self._orders or self._orders[source][0] != epoch:
            self._orders[source] = (epoch, self._order(source, epoch, len(rows)))
        return rows[self._orders[source][1][place]]

    def _order(self, source: int, epoch: int, num: int) -> list[int]:
        """Both halves, each in this pass's own order."""
        half_of = Address(self._seed, f"halves of {source}").permutation(num)
        order = Address(self._seed, f"demonstrations of {source}", epoch).permutation(num)
        return sorted(order, key=lambda i: half_of[i] >= num // 2)
