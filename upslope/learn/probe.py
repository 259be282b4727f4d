"""Measurements that cost passes of their own, so they are made every few steps: which way the gradient pulls before a
step, and how far the step moved the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.critic import no_critic
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.regulariser import no_penalty
from upslope.learn.learner import Learner
from upslope.learn.optimizer import flat
from upslope.learn.prepare import weigh, with_old, zero_gradient_rows
from upslope.learn.settings import LOGITS_BUDGET
from upslope.learn.trust_region import MeasuredRegion
from upslope.types import Batch, given


class Probe:
    """Made before a step's first update, read after its last one."""

    def __init__(self, learner: Learner, batch: Batch) -> None:
        """Leaves weights and optimizer untouched."""
        self._row: dict[str, Any] = {}
        self._region: MeasuredRegion | None = None
        if not learner.recipe.acts or not batch.num_rollouts:
            return
        whole = weigh(batch, learner.recipe)
        advantage_NT = given(batch.advantage_NT, "advantage_NT")
        for name, part_NT in (("up", advantage_NT.clamp(min=0)), ("down", advantage_NT.clamp(max=0))):
            self._row[f"grad_norm_{name}"] = gradient_norm(learner, replace(whole, advantage_NT=part_NT))
        self._region = MeasuredRegion(learner, Objective(learner.recipe), whole)

    def row(self) -> dict[str, Any]:
        """``grad_norm_up``, ``grad_norm_down``: norms of the two parts whose sum is the surrogate's gradient over the
        whole batch. ``kl_step``: exact KL(before the step || now), nats a token, mean over the sampled states."""
        if self._region is None:
            return self._row
        return self._row | {"kl_step": self._region.distance()}


def gradient_norm(learner: Learner, batch: Batch) -> float:
    """Norm of the surrogate's gradient alone, without penalty and critic."""
    return float(surrogate_gradient(learner, batch).norm())


def surrogate_gradient(learner: Learner, batch: Batch) -> Tensor:
    """Minus the gradient of the surrogate's loss over a weighed batch, as one flat vector; masters keep none."""
    recipe = learner.recipe.patch(regulariser=no_penalty, critic=no_critic)
    objective, optimizer = Objective(recipe), learner.optimizer
    active = batch.take([i for i, idle in enumerate(zero_gradient_rows(batch, recipe)) if not idle])
    optimizer.zero()
    for part in learner.micro_batches(active, most_logits=LOGITS_BUDGET):
        now = learner.policy.distributions(part.rollouts, learner.scoring)
        logp_NT = now.rectangle(now.logp_R, (part.num_rollouts, part.mask_NT.shape[1]))
        losses, _ = objective(Scored(logp_NT, torch.zeros_like(logp_NT)), with_old(part, logp_NT, recipe))
        losses.policy.backward()  # type: ignore[no-untyped-call]
    masters = list(optimizer.masters.values())
    found = -flat([m.grad for m in masters], masters)
    optimizer.zero()
    return found
