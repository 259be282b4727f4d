"""Measurements that cost passes of their own, so they are made every few steps: which way the gradient pulls before a
step, and how far the step moved the policy."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from torch import Tensor

from upslope.algo.critic import no_critic
from upslope.algo.objective import Objective
from upslope.algo.outcome import Rescored
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import no_penalty
from upslope.learn.learner import Learner
from upslope.learn.optimizer import flat
from upslope.learn.prepare import weigh
from upslope.learn.settings import LOGITS_BUDGET
from upslope.learn.trust_region import MeasuredRegion, most_kept, spaced
from upslope.types import Batch, given

MOST_TOKENS = 8192
"""Chosen tokens at which ``kl_step`` is measured, about: it needs whole distributions, twice, and 29,000 tokens of a
vocabulary of 49,152 took four times as long as the step itself. On a device of known memory fewer, if the distributions
of so many do not fit: else all weights would be kept twice."""


class Probe:
    """Made before a step's first update, read after its last one."""

    def __init__(self, learner: Learner, recipe: Recipe, batch: Batch) -> None:
        """Leaves weights and optimizer untouched."""
        self._row: dict[str, Any] = {}
        self._region: MeasuredRegion | None = None
        if not recipe.acts or not batch.num_rollouts:
            return
        whole = weigh(batch, recipe)
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        for name, part_NT in (("up", advantage_NT.clamp(min=0)), ("down", advantage_NT.clamp(max=0))):
            part = replace(whole, advantage_NT=part_NT)
            learner.scorer.fitting(functools.partial(_leave_surrogate_gradient, learner, recipe, part))
            self._row[f"grad_norm_{name}"] = float(learner.optimizer.norm())
            learner.optimizer.zero()
        budgets, most = learner.policy.budgets, MOST_TOKENS
        if budgets.measured(budgets.shares.logits):
            room = most_kept(learner.policy) // learner.policy.vocabulary
            most = min(most, *learner.scorer.ranks.gather(room))  # all learners take the same states
        share = most / max(int(whole.mask_NT.sum()), 1)
        part = whole if share >= 1 else spaced(whole, share, least=1)
        self._region = learner.trust_region(Objective(recipe), part)

    def row(self) -> dict[str, Any]:
        """``grad_norm_up``, ``grad_norm_down``: norms of the two parts whose sum is the surrogate's gradient over the
        whole batch. ``kl_step``: exact KL(before the step || now), nats a token, mean over the sampled states, or over
        ``MOST_TOKENS`` of them where there are more: those of some problems, evenly spaced."""
        if self._region is None:
            return self._row
        return self._row | {"kl_step": self._region.distance()}

    def after(self) -> Rescored | None:
        """What the learner says of the tokens behind ``kl_step`` after the step's last update; None before ``row``."""
        if self._region is None or self._region.after_NT is None:
            return None
        return Rescored(self._region.states.rollouts, self._region.after_NT)


def surrogate_gradient(learner: Learner, recipe: Recipe, batch: Batch) -> Tensor:
    """Minus the gradient of the surrogate's loss over a weighed batch, without penalty and critic, as one flat vector;
    masters keep none."""
    _leave_surrogate_gradient(learner, recipe, batch)
    masters = list(learner.optimizer.masters.values())
    found = -flat([m.grad for m in masters], masters)
    learner.optimizer.zero()
    return found


def _leave_surrogate_gradient(learner: Learner, recipe: Recipe, batch: Batch) -> None:
    """The same in the masters, with its sign."""
    scorer, optimizer = learner.scorer, learner.optimizer
    objective = Objective(recipe.patch(regulariser=no_penalty, critic=no_critic))
    batch = learner.marked(objective, batch)
    active = batch.take([i for i, idle in enumerate(objective.without_gradient(batch)) if not idle])
    optimizer.zero()
    for part, counts in scorer.passes(active, most_logits=learner.policy.budgets.logits(LOGITS_BUDGET)):
        scored = scorer.scored(part, scorer.distributions(part), penalty=False)
        losses, _ = objective(scored, objective.with_old(part, scored.logp_NT))
        (losses.policy if counts else 0 * losses.policy).backward()  # type: ignore[no-untyped-call]
    optimizer.gather(scorer.ranks)
