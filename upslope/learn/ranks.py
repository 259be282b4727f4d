"""Who else learns: several processes that hold the same weights and share the rows of an update.

Denominators are fixed on the whole batch before rows are shared out, so the sum of all ranks' gradients is the gradient
of the whole, whatever the shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from upslope.errors import NonFinite
from upslope.model.layout import num_read
from upslope.types import Batch

T = TypeVar("T")


class Ranks(Protocol):
    """One of ``size`` learners. Every method is called by all of them, in the same order, with the same batch.

    ``Alone`` is one process; ``upslope.cluster`` has those that are several; ``stand_ins.py`` plays several in one, for
    tests.
    """

    rank: int
    size: int

    def share(self, batch: Batch) -> Batch:
        """The rows that are this rank's business: consecutive ones; over all ranks each row once, in order."""
        ...

    def passes(self, parts: Iterable[Batch], whole: Batch) -> Iterator[tuple[Batch, bool]]:
        """The passes this rank makes: ``parts``, micro-batches of its share of ``whole``, each with True. Where ranks
        must pass equally often, whoever has fewer parts also passes rows that are not its own, with False: they do not
        count."""
        ...

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor the sum of all ranks' tensors at its place."""
        ...

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank."""
        ...


class Alone:
    """One process: everything is its own business."""

    rank = 0
    size = 1

    def share(self, batch: Batch) -> Batch:
        return batch

    def passes(self, parts: Iterable[Batch], whole: Batch) -> Iterator[tuple[Batch, bool]]:
        return own_passes(parts)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        pass

    def gather(self, value: T) -> list[T]:
        return [value]


def own_passes(parts: Iterable[Batch]) -> Iterator[tuple[Batch, bool]]:
    """A pass for each of these, and no other: for ranks that need not pass equally often."""
    return ((part, True) for part in parts)


def agree_on_soundness(ranks: Ranks, complaint: str) -> None:
    """Raise NonFinite on all ranks with what the first of them complains of; empty: nothing. Else one would stop, and
    the others would wait for it."""
    found = next(filter(None, ranks.gather(complaint)), "")
    if found:
        raise NonFinite(found)


def sum_numbers(ranks: Ranks, numbers: Mapping[str, float]) -> dict[str, float]:
    """The sums over all ranks, name by name."""
    parts = ranks.gather(dict(numbers))
    return {name: sum(part[name] for part in parts) for name in numbers}


def share_of(batch: Batch, rank: int, size: int) -> Batch:
    """A rank's consecutive rows, with about as many tokens as the others' have."""
    return batch.take(shares(row_tokens(batch), size)[rank])


def row_tokens(batch: Batch) -> list[int]:
    """Tokens of every row, prompt and response."""
    return [num_read(rollout) for rollout in batch.rollouts]


def shares(lengths: Sequence[int], size: int) -> list[range]:
    """Consecutive rows for each of ``size`` ranks, with about equally many tokens; ``lengths`` are the rows'.

    A row belongs to the rank in whose share of all tokens its middle lies.

    >>> shares([4, 4, 1, 1, 6], 2)
    [range(0, 2), range(2, 5)]
    """
    total, before = sum(lengths), 0
    owners = []
    for length in lengths:
        middle = before + length / 2
        owners.append(min(size - 1, int(middle * size / max(total, 1))))
        before += length
    firsts = [next((row for row, owner in enumerate(owners) if owner >= rank), len(lengths)) for rank in range(size)]
    return [range(a, b) for a, b in zip(firsts, [*firsts[1:], len(lengths)], strict=True)]
