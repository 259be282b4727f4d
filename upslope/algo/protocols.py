"""What an update and the learner know of each other."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from upslope.algo.outcome import Losses, Outcome, Scored, Stats, Trace
from upslope.types import Batch


class Loss(Protocol):
    """What an update makes smaller; see ``upslope.algo.objective.Objective``."""

    def __call__(self, scored: Scored, batch: Batch) -> tuple[Losses, Trace]:
        """(losses, trace) of the rows of a batch, each the sum over exactly these rows."""
        ...

    def marked(self, batch: Batch) -> Batch:
        """The batch with what its slots see in the whole update."""
        ...

    def with_old(self, batch: Batch, logp_NT: Tensor) -> Batch:
        """The batch with these as the old log-probabilities, where some are needed and none are there."""
        ...

    def without_gradient(self, batch: Batch) -> list[bool]:
        """Which rows have no gradient, whatever the policy says."""
        ...


class TrustRegion(Protocol):
    """The policy around its present weights, as one flat vector of all trainable parameters."""

    loss: float
    """The policy loss at the present weights, measured as ``measure`` does."""

    def slope(self) -> Tensor:
        """Minus the gradient of the loss, as ``gradient`` left it: the direction in which the objective rises."""
        ...

    def fisher_product(self, vector: Tensor) -> Tensor:
        """F v, F the Fisher matrix of the token distributions, averaged over the sampled states."""
        ...

    def move(self, step: Tensor) -> None:
        """Set the weights to where they were plus ``step``; a zero step restores them bit for bit."""
        ...

    def measure(self) -> tuple[float, float]:
        """(policy loss, mean KL(before || now) over the sampled states, nats a token) at the weights as moved."""
        ...


class Stepper(Protocol):
    """What an update needs of a learner."""

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        """Leave the gradient of the objective over the whole mini-batch in the parameters."""
        ...

    def step(self) -> Stats:
        """Clip, check that everything is finite, and move the weights once (the critic's too)."""
        ...

    def trust_region(self, objective: Loss, minibatch: Batch, fisher_share: float) -> TrustRegion:
        """The surroundings of the present weights, for an update that measures before it moves; products with the
        Fisher matrix over that share of the problems."""
        ...

    def settle(self) -> Stats:
        """Count a move made without the optimizer, check that the weights are finite, and let the critic step."""
        ...
