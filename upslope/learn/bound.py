"""A learner with the one recipe that it serves: what proofs, tests and benchmarks hold in one hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from upslope.algo.objective import Objective
from upslope.algo.outcome import Outcome, Scored, Stats
from upslope.algo.protocols import Loss
from upslope.algo.recipe import Recipe
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.learner import Learner
from upslope.learn.optimizer import Optimizer
from upslope.learn.scorer import Scorer
from upslope.learn.trust_region import MeasuredRegion
from upslope.model.policy import Policy
from upslope.types import Batch, Group


@dataclass(frozen=True)
class BoundLearner:
    """Satisfies ``upslope.algo.protocols.Stepper``; ``prepare`` and ``objective`` are of its recipe."""

    recipe: Recipe
    learner: Learner

    @cached_property
    def objective(self) -> Objective:
        return Objective(self.recipe)

    @property
    def scorer(self) -> Scorer:
        return self.learner.scorer

    @property
    def policy(self) -> Policy:
        return self.learner.policy

    @property
    def optimizer(self) -> Optimizer:
        return self.learner.optimizer

    @property
    def critic(self) -> CriticLearner | None:
        return self.learner.critic

    def prepare(self, groups: Sequence[Group]) -> Batch:
        return self.learner.prepare(self.recipe, groups)

    def score(self, batch: Batch) -> Scored:
        return self.learner.scorer.score(batch)

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        return self.learner.gradient(objective, minibatch)

    def step(self) -> Stats:
        return self.learner.step()

    def trust_region(self, objective: Loss, minibatch: Batch, fisher_share: float = 1.0) -> MeasuredRegion:
        return self.learner.trust_region(objective, minibatch, fisher_share)

    def settle(self) -> Stats:
        return self.learner.settle()

    def weights(self) -> Mapping[str, Tensor]:
        return self.learner.weights()
