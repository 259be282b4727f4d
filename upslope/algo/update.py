"""Slot ``update``: how far may a step go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from upslope.algo.conjugate import Solution, conjugate_gradients
from upslope.algo.outcome import Outcome, Stats
from upslope.algo.protocols import Loss, Stepper, TrustRegion
from upslope.algo.slots import Update, kind
from upslope.types import Batch


@kind("update")
def gradient_step(learner: Stepper, objective: Loss, minibatch: Batch) -> Outcome:
    """One step of the optimizer along the gradient, whatever distance that is."""
    outcome = learner.gradient(objective, minibatch)
    return replace(outcome, stats=outcome.stats | learner.step())


@kind("update")
@dataclass(frozen=True)
class KLBall(Update):
    """The largest step inside mean KL(pi_old || pi) <= delta (TRPO, arXiv 1502.05477, section 6 and appendix C).

    To second order the KL is x.Fx / 2, so the best direction is the natural gradient x = F^-1 g, by conjugate
    gradients on products with F + damping I, and the budget ends at sqrt(2 delta / x.Fx) of it. From there the step
    shrinks by ``shrink`` until the KL measured over the vocabulary is within the budget and the surrogate measured on
    the batch has improved; after ``backtracks`` of it the step is refused and the weights stay.

    delta in nats a token, mean over the sampled states. Learning rate, momentum and gradient clipping play no part.
    ``fisher_share`` of the problems (but at least eight) give the states of the Fisher products (the paper takes a
    tenth, appendix C); the budget and the surrogate are always measured on all.
    With several updates a batch each gets a budget of its own, around the policy that it starts from.
    Journal: ``kl_budget``, ``kl_update`` (reached), ``cg_residual``, ``cg_iterations``, ``backtracks``, ``gain`` (of
    the surrogate), ``over_budget`` and ``no_gain`` (backtracks by cause), ``refused``, ``negative_curvature``.
    """

    delta: float = 0.01
    damping: float = 0.1
    iterations: int = 10
    backtracks: int = 25
    shrink: float = 0.8
    fisher_share: float = 0.25
    needs: ClassVar[frozenset[str]] = frozenset({"curvature"})
    moves_policy_alone: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.delta > 0 and self.damping >= 0 and self.iterations >= 1 and self.backtracks >= 0):
            raise ValueError(f"needs delta > 0, damping >= 0, iterations >= 1 and backtracks >= 0: {self}")
        if not (0 < self.shrink < 1 and 0 < self.fisher_share <= 1):
            raise ValueError(f"needs 0 < shrink < 1 and 0 < fisher_share <= 1: {self}")

    def __call__(self, learner: Stepper, objective: Loss, minibatch: Batch) -> Outcome:
        outcome = learner.gradient(objective, minibatch)
        region = learner.trust_region(objective, minibatch, self.fisher_share)
        slope = region.slope()
        norm = float(slope.norm())
        stats: Stats = {"grad_norm": norm, "kl_budget": self.delta, "kl_update": 0.0, "refused": 0.0}
        if norm > 0:
            found = self.natural_direction(region, slope)
            stats |= {"cg_residual": found.residual, "cg_iterations": float(found.num_iterations)}
            stats["negative_curvature"] = float(not found.curved)
            stats |= self.search(region, found.x)
        return replace(outcome, stats=outcome.stats | stats | learner.settle())

    def natural_direction(self, region: TrustRegion, slope: Tensor) -> Solution:
        """(F + damping I)^-1 slope, by conjugate gradients."""
        return conjugate_gradients(
            lambda v: region.fisher_product(v) + self.damping * v, slope, iterations=self.iterations
        )

    def search(self, region: TrustRegion, direction: Tensor) -> Stats:
        """Move to the first point on the way back from the rim that keeps the budget and improves; else stay."""
        curvature = float(direction @ region.fisher_product(direction))
        over_budget = no_gain = 0
        if curvature > 0:
            rim = direction * (2 * self.delta / curvature) ** 0.5
            for turn in range(self.backtracks + 1):
                region.move(rim * self.shrink**turn)
                loss, kl = region.measure()
                if kl <= self.delta and loss < region.loss:
                    return self.report(over_budget, no_gain) | {"kl_update": kl, "gain": region.loss - loss}
                over_budget += not kl <= self.delta
                no_gain += kl <= self.delta
        region.move(direction * 0)
        return self.report(over_budget, no_gain) | {"gain": 0.0, "refused": 1.0}

    @staticmethod
    def report(over_budget: int, no_gain: int) -> Stats:
        """How often the step was shortened, and why."""
        num = over_budget + no_gain
        return {"backtracks": float(num), "over_budget": float(over_budget), "no_gain": float(no_gain)}
