"""Slot ``update``: how far may a step go.

Still to be filled here: the KL ball (natural gradient by conjugate gradients and line search).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from upslope.algo.outcome import Loss, Outcome, Stats
from upslope.types import Batch


class Stepper(Protocol):
    """What an update needs of a learner."""

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        """Leave the gradient of the objective over the whole mini-batch in the parameters."""
        ...

    def step(self) -> Stats:
        """Clip, check that everything is finite, and move the weights once."""
        ...


def gradient_step(learner: Stepper, objective: Loss, minibatch: Batch) -> Outcome:
    """One step of the optimizer along the gradient, whatever distance that is."""
    outcome = learner.gradient(objective, minibatch)
    return replace(outcome, stats=outcome.stats | learner.step())
