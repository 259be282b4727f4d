"""Slot ``reuse``: how many updates one batch of rollouts pays for."""

from __future__ import annotations

from dataclasses import dataclass

from upslope.algo.slots import Reused, kind


@kind("reuse")
@dataclass(frozen=True)
class Reuse(Reused):
    """``epochs`` passes over the batch, each cut into ``minibatches`` updates.

    With more than one update the policy moves away from the one that sampled, so a surrogate with a ratio is due.
    Mini-batches are separate updates, each with denominators of its own; micro-batches (a matter of memory only)
    are parts of one update and share them. Where mini-batches cannot all have as many groups (5 in 4 parts), each
    counts in proportion to its groups, so that a group counts the same in any of them.
    """

    epochs: int = 1
    minibatches: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.minibatches < 1:
            raise ValueError(f"epochs and minibatches must be at least 1, not {self.epochs} and {self.minibatches}")

    @property
    def num_updates(self) -> int:
        return self.epochs * self.minibatches
