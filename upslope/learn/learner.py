"""What the loop updates: a policy with its optimizer, and its critic's where the recipe has one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.algo.outcome import Losses, Outcome, Scored, Stats, Trace
from upslope.algo.protocols import Loss
from upslope.algo.recipe import Recipe
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.optimizer import Optimizer
from upslope.learn.prepare import judge, to_batch
from upslope.learn.ranks import agree_on_soundness, sum_numbers
from upslope.learn.scorer import Scorer
from upslope.learn.trust_region import MeasuredRegion
from upslope.model.policy import Policy
from upslope.types import Batch, Group, given


@dataclass
class Learner:
    """Prepares batches, leaves gradients, takes steps. Which algorithm that serves is said by the recipe and the
    objective that are handed in; ``scorer`` was made for what they need."""

    scorer: Scorer
    optimizer: Optimizer
    watch: Callable[[int, int], None] = lambda done, total: None
    """Told after every micro-batch how many rows of how many have their gradient."""
    share: Callable[[Sequence[Group] | None], None] = lambda groups: None
    """Told of a step's groups before they are prepared, and of None before ``kept`` gathers: so that other learners do
    the same."""

    @property
    def policy(self) -> Policy:
        return self.scorer.policy

    @property
    def critic(self) -> CriticLearner | None:
        return self.scorer.critic

    def prepare(self, recipe: Recipe, groups: Sequence[Group]) -> Batch:
        """Rewards to advantages, and whatever else the recipe's slots need.

        With one update a batch the old log-probabilities are the new ones of that update, detached: no pass here,
        unless somebody needs them earlier (``old_logp_before``: a penalty that is paid in the reward).
        """
        self.share(groups)
        needs = recipe.needs
        if not needs <= self.scorer.needs:
            raise RuntimeError(
                f"the recipe needs {sorted(needs - self.scorer.needs)}, which the learner was not made for"
            )
        limit = self.scorer.sampling.max_tokens if recipe.acts else 0
        batch = to_batch(groups, self.policy.device, self._dtype, limit=limit)
        wanted = {
            "old_logp_NT": "old_logp_before" in needs or ("old_logp" in needs and recipe.reuse.num_updates > 1),
            "old_entropy_NT": "old_entropy" in needs,
            "reference_logp_NT": "reference_logp" in needs,
            "reference_kl_NT": "reference_kl_before" in needs,
            "value_NT": "values" in needs,
        }
        names = [name for name, want in wanted.items() if want]
        return judge(replace(batch, **self.scorer.constants(batch, names, self._dtype)), recipe)  # type: ignore[arg-type]

    # -- update -------------------------------------------------------------------------------------------------

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        """Leave the gradient over the whole mini-batch in the masters, adding up micro-batches.

        The outcome's rows hold the old log-probabilities that the recipe needs. While the critic warms up, the policy
        gets no gradient. Where the device runs out of memory, all of it begins anew in smaller micro-batches.
        """
        return self.scorer.fitting(lambda: self._gradient(objective, minibatch))

    def _gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        self.optimizer.zero()
        if self.critic is not None:
            self.critic.optimizer.zero()
        minibatch = self.marked(objective, minibatch)
        idle = objective.without_gradient(minibatch)
        active = minibatch.take([i for i, is_idle in enumerate(idle) if not is_idle])
        sums = {"loss": 0.0} | ({"value_loss": 0.0} if self.critic is not None else {})
        ranks, num_done, traces, complaint = self.scorer.ranks, 0, [], ""
        num_mine = ranks.share(active).num_rollouts
        for part, counts in self.scorer.passes(active):
            forward = self.scorer.forward(part)
            for rows, scored in forward.chunks():
                losses, trace = objective(scored, objective.with_old(rows, scored.logp_NT))
                complaint = complaint or _complaint(losses, scored, rows)
                if ranks.size == 1:  # else the others must hear of it
                    agree_on_soundness(ranks, complaint)
                loss = losses.total if not self.scorer.warming else given(losses.value, "value")
                pushed = scored.logp_NT.requires_grad
                if pushed:
                    scored.logp_NT.retain_grad()
                (loss if counts else 0 * loss).backward()  # type: ignore[no-untyped-call]
                slope_NT = scored.logp_NT.grad if pushed else None
                trace = replace(trace, push_NT=torch.zeros_like(trace.logp_NT) if slope_NT is None else -slope_NT)
                if counts:
                    sums["loss"] += losses.policy.item()
                    if losses.value is not None:
                        sums["value_loss"] += losses.value.item()
                    traces.append(trace)
            forward.backward()
            if counts:
                num_done += part.num_rollouts
                self.watch(num_done, num_mine)
        agree_on_soundness(ranks, complaint)
        return self._outcome(objective, active, traces, sums)

    def _outcome(self, objective: Loss, active: Batch, traces: Sequence[Trace], sums: Stats) -> Outcome:
        """What all ranks' rows amount to; every rank is left with the gradient of all of them."""
        ranks = self.scorer.ranks
        self.optimizer.gather(ranks)
        if self.critic is not None:
            self.critic.optimizer.gather(ranks)
        trace = Trace.join([t for of_rank in ranks.gather(list(traces)) for t in of_rank])
        if trace is not None:
            active = objective.with_old(active, trace.logp_NT)
        return Outcome(active, trace, sum_numbers(ranks, sums))

    def marked(self, objective: Loss, batch: Batch) -> Batch:
        """The batch with what the recipe's slots see in the whole update with the present policy's log-probabilities,
        where they need these; everything else was seen when the batch was weighed."""
        if "present_logp" not in self.scorer.needs:
            return batch
        names = ["present_logp_NT"]
        return objective.marked(replace(batch, **self.scorer.constants(batch, names, self._dtype)))  # type: ignore[arg-type]

    def step(self) -> Stats:
        """Let policy and critic take a step; while the critic warms up, it alone."""
        if self.critic is None:
            return self.optimizer.step()
        warming = {"warming": float(self.scorer.warming)}
        stats = {"grad_norm": 0.0, "lr": 0.0} if self.scorer.warming else self.optimizer.step()
        return stats | warming | self.critic.step()

    def trust_region(self, objective: Loss, minibatch: Batch, fisher_share: float = 1.0) -> MeasuredRegion:
        """The surroundings of the present weights; see ``upslope.algo.protocols.TrustRegion``."""
        minibatch = self.marked(objective, minibatch)
        return self.scorer.fitting(
            lambda: MeasuredRegion(self.scorer, self.optimizer, objective, minibatch, fisher_share)
        )

    def settle(self) -> Stats:
        """Count a move made without the optimizer, check that the weights are finite, and let the critic step."""
        self.optimizer.count()
        return {"lr": 0.0} | ({} if self.critic is None else self.critic.step())

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The policy's, and the critic's where there is one."""
        return (self.optimizer,) if self.critic is None else (self.optimizer, self.critic.optimizer)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor] | None]:
        """What a checkpoint keeps: masters, the optimizer's state, and the critic's where there is one."""
        self.share(None)
        return (
            self.optimizer.full_precision(),
            self.optimizer.state(),
            None if self.critic is None else self.critic.state(),
        )

    def full_precision(self) -> Mapping[str, Tensor] | None:
        """The policy's masters, for saving; None: they can be had no more."""
        return self.optimizer.full_precision()

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights, for the sampler. No gradient is kept any longer: what is sampled next has its room."""
        self.free_gradients()
        return self.policy.weights()

    def free_gradients(self) -> None:
        """Of the policy and of the critic."""
        for optimizer in self.optimizers:
            optimizer.zero()

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.optimizer.masters.values())).dtype


def _complaint(losses: Losses, scored: Scored, part: Batch) -> str:
    """What is not finite; empty if nothing is."""
    if not math.isfinite(losses.policy.item()):
        return f"the loss is {losses.policy.item()}: {_blame(scored, part)}"
    if losses.value is not None and not math.isfinite(losses.value.item()):
        return f"the critic's loss is {losses.value.item()}"
    return ""


def _blame(scored: Scored, batch: Batch) -> str:
    """Name the first rollout and token with a log-probability that is not finite."""
    bad = (~torch.isfinite(scored.logp_NT) & batch.mask_NT).nonzero()
    if len(bad):
        row, column = (int(i) for i in bad[0])
        rollout = batch.rollouts[row]
        return (
            f"token {column} of sample {rollout.sample} of problem {rollout.problem_id} has log-probability "
            f"{scored.logp_NT[row, column].item()} under the current weights"
        )
    return "all log-probabilities are finite, so a reward, an advantage or a ratio is not"
