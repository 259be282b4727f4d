"""One pass over a micro-batch, cut in two: the trunk once for all its rows, the head and the objective in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.learn.chunks import chunks
from upslope.model.states import States
from upslope.types import Batch

Head = Callable[[Batch, States, States | None, Tensor | None], Scored]
"""Scores of rows, from the policy's states there, the reference's and the critic's values (None: not asked for)."""


class Forward:
    """The trunk's pass over some rows (the policy's, and the reference's and the critic's if the recipe asks), and what
    follows from it: everything at once (``whole``), or chunk by chunk (``chunks``) with ``backward`` at the end.

    Hidden states and values are cut off between the two halves. Every chunk's own backward pass ends at that cut, frees
    the chunk's logits and leaves d loss / d hidden there; ``backward`` sends all of it through the trunk at once.
    """

    def __init__(
        self, part: Batch, mine: States, theirs: States | None, value_NT: Tensor | None, head: Head, most: int
    ) -> None:
        """``most`` tokens' logits may be held at once."""
        self._part, self._mine, self._theirs, self._value_NT = part, mine, theirs, value_NT
        self._head, self._most = head, most
        self._sources: list[Tensor] = []
        self._values: list[Tensor] = []

    def whole(self) -> Scored:
        """Scores of all rows, with their graph through head and trunk."""
        return self._head(self._part, self._mine, self._theirs, self._value_NT)

    def chunks(self) -> Iterator[tuple[Batch, Scored]]:
        """Rows and their scores, with a graph as far as the cut; each must have its backward pass before the next."""
        for rows, tokens in chunks(self._part.mask_NT.sum(dim=1).tolist(), self._most):
            mine = self._mine.take(tokens).leaf()
            theirs = None if self._theirs is None else self._theirs.take(tokens)
            value_NT = None
            if self._value_NT is not None:
                value_NT = self._value_NT[rows.start : rows.stop].detach().requires_grad_(self._value_NT.requires_grad)
                self._values.append(value_NT)
            self._sources.append(mine.source_RX)
            piece = self._part.take(rows)
            yield piece, self._head(piece, mine, theirs, value_NT)

    def backward(self) -> None:
        """From the cut through the trunk, for all chunks together."""
        ends = [(self._mine.source_RX, self._sources)]
        if self._value_NT is not None:
            ends.append((self._value_NT, self._values))
        slopes = [(whole, joined_slope(leaves)) for whole, leaves in ends if whole.requires_grad]
        reached = [(whole, slope) for whole, slope in slopes if slope is not None]
        if reached:
            torch.autograd.backward([whole for whole, _ in reached], [slope for _, slope in reached])


def joined_slope(leaves: Sequence[Tensor]) -> Tensor | None:
    """The gradients of consecutive pieces as one; None if none has any."""
    if all(leaf.grad is None for leaf in leaves):
        return None
    return torch.cat([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
