"""The learner: scores sampled tokens, turns groups into a batch, and moves the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from upslope.algo.outcome import Loss, Losses, Outcome, Scored, Stats, Trace
from upslope.algo.recipe import Recipe
from upslope.errors import NonFinite, UserError
from upslope.learn.chunks import micro_batches, most_trunk_tokens
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.optimizer import Optimizer
from upslope.learn.prepare import judge, to_batch, with_old, zero_gradient_rows
from upslope.learn.scorer import Pass
from upslope.learn.settings import LOGITS_BUDGET, LearnSettings
from upslope.learn.trust_region import MeasuredRegion
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.model.scores import token_scores
from upslope.model.states import rectangle
from upslope.types import Batch, Group, Sampling, given


def require_scorable(sampling: Sampling) -> None:
    """Raise UserError unless every drawn token can be scored under the distribution it was drawn from."""
    if not sampling.scorable:
        raise UserError(
            f"sample: temperature={sampling.temperature}, top_k={sampling.top_k}, top_p={sampling.top_p} cannot be "
            "scored exactly in training (a token cut away by top-k or top-p has no log-probability); set temperature "
            "above 0, top_k=0 and top_p=1"
        )


@dataclass
class Learner:
    """A policy, its optimizer, and the distribution its attempts were drawn from; a frozen reference and a critic
    where the recipe needs them."""

    policy: Policy
    recipe: Recipe
    sampling: Sampling
    settings: LearnSettings
    optimizer: Optimizer
    reference: Reference | None = None
    critic: CriticLearner | None = None
    watch: Callable[[int, int], None] = lambda done, total: None
    """Told after every micro-batch how many rows of how many have their gradient."""

    def __post_init__(self) -> None:
        if self.recipe.acts:
            require_scorable(self.sampling)

    @property
    def scoring(self) -> Sampling:
        """Attempts are scored under the distribution they were drawn from; given text under the plain one."""
        return self.sampling if self.recipe.acts else Sampling()

    @property
    def warming(self) -> bool:
        """Whether the critic alone learns for now."""
        return self.critic is not None and self.critic.warming

    # -- prepare ------------------------------------------------------------------------------------------------

    def prepare(self, groups: Sequence[Group]) -> Batch:
        """Rewards to advantages, and whatever else the recipe's slots need."""
        limit = self.sampling.max_tokens if self.recipe.acts else 0
        batch = to_batch(groups, self.policy.device, self._dtype, limit=limit)
        return judge(self._scored_before(batch), self.recipe)

    @torch.no_grad()
    def _scored_before(self, batch: Batch) -> Batch:
        """The batch with everything that is constant during its updates: old and reference log-probabilities, values.

        With one update a batch the old log-probabilities are the new ones of that update, detached: no pass here,
        unless somebody needs them earlier (``old_logp_before``: a penalty that is paid in the reward).
        """
        needs = self.recipe.needs
        wanted = {
            "old_logp_NT": "old_logp_before" in needs or ("old_logp" in needs and self.recipe.reuse.num_updates > 1),
            "reference_logp_NT": "reference_logp" in needs,
            "reference_kl_NT": "reference_kl_before" in needs,
            "value_NT": "values" in needs,
        }
        names = [name for name, want in wanted.items() if want]
        if not names:
            return batch
        parts = [self._constants(part, names) for part in self.micro_batches(batch)]
        zeros = batch.mask_NT.to(self._dtype) * 0
        found: dict[str, Any] = {n: torch.cat([p[n] for p in parts]) if parts else zeros for n in names}
        return replace(batch, **found)

    def _constants(self, part: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        mine = theirs = None
        if {"old_logp_NT", "reference_kl_NT"} & set(names) or ("value_NT" in names and self._critic.shares):
            mine = self.policy.states(part.rollouts)
        if {"reference_logp_NT", "reference_kl_NT"} & set(names):
            theirs = self.must_refer.states(part.rollouts)
            logp_R = token_scores(self.must_refer, theirs, self.scoring).logp_R
            found["reference_logp_NT"] = rectangle(logp_R, part.mask_NT)
        if mine is not None and {"old_logp_NT", "reference_kl_NT"} & set(names):
            other = (self.must_refer, theirs) if theirs is not None and "reference_kl_NT" in names else None
            logp_R, _, divergence_R = token_scores(self.policy, mine, self.scoring, other=other)
            found["old_logp_NT"] = rectangle(logp_R, part.mask_NT)
            if divergence_R is not None:
                found["reference_kl_NT"] = rectangle(divergence_R, part.mask_NT)
        if "value_NT" in names:
            found["value_NT"] = self._critic.values(part, self.policy, mine)
        return {name: found[name].to(self._dtype) for name in names}

    # -- update -------------------------------------------------------------------------------------------------

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        """Leave the gradient over the whole mini-batch in the masters, adding up micro-batches.

        The outcome's rows hold the old log-probabilities that the recipe needs. While the critic warms up, the policy
        gets no gradient.
        """
        self.optimizer.zero()
        if self.critic is not None:
            self.critic.optimizer.zero()
        idle = zero_gradient_rows(minibatch, self.recipe)
        active = minibatch.take([i for i, s in enumerate(idle) if not s])
        sums = {"loss": 0.0} | ({"value_loss": 0.0} if self.critic is not None else {})
        num_done, traces = 0, []
        for part in self.micro_batches(active):
            forward = Pass(self, part)
            for rows, scored in forward.chunks():
                losses, trace = objective(scored, with_old(rows, scored.logp_NT, self.recipe))
                self._require_finite(losses, scored, rows)
                loss = losses.total if not self.warming else given(losses.value, "value")
                loss.backward()  # type: ignore[no-untyped-call]
                sums["loss"] += losses.policy.item()
                if losses.value is not None:
                    sums["value_loss"] += losses.value.item()
                traces.append(trace)
            forward.backward()
            num_done += part.num_rollouts
            self.watch(num_done, active.num_rollouts)
        trace_of_all = Trace.join(traces)
        if trace_of_all is not None:
            active = with_old(active, trace_of_all.logp_NT, self.recipe)
        return Outcome(active, trace_of_all, sums)

    def step(self) -> Stats:
        """Let policy and critic take a step; while the critic warms up, it alone."""
        if self.critic is None:
            return self.optimizer.step()
        warming = {"warming": float(self.warming)}
        stats = {"grad_norm": 0.0, "lr": 0.0} if self.warming else self.optimizer.step()
        return stats | warming | self.critic.step()

    def trust_region(self, objective: Loss, minibatch: Batch, fisher_share: float = 1.0) -> MeasuredRegion:
        """The surroundings of the present weights; see ``upslope.algo.update.TrustRegion``."""
        return MeasuredRegion(self, objective, minibatch, fisher_share)

    def settle(self) -> Stats:
        """Count a move made without the optimizer, check that the weights are finite, and let the critic step."""
        self.optimizer.count()
        return {"lr": 0.0} | ({} if self.critic is None else self.critic.step())

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights, for the sampler."""
        return self.policy.weights()

    # -- score --------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Scored:
        """The batch's own tokens under the current weights, with gradient; values and exact KL if the recipe asks."""
        return Pass(self, batch).whole()

    def micro_batches(
        self, batch: Batch, *, most_tokens: int | None = None, most_logits: int | None = None
    ) -> Iterator[Batch]:
        """Consecutive rows, as many at a time as the setting says, or as have ``most_tokens`` (None: what the model's
        size allows) and ``most_logits`` (None: no bound, unless the model makes all of them at once)."""
        tokens = most_trunk_tokens(self.policy) if most_tokens is None else most_tokens
        logits = LOGITS_BUDGET if most_logits is None and not self.policy.apart else most_logits
        rows = self.settings.micro_batch
        return micro_batches(batch, self.policy, most_rows=rows, most_tokens=tokens, most_logits=logits)

    # -- small things -------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.optimizer.masters.values())).dtype

    @property
    def must_refer(self) -> Reference:
        """The reference of a recipe that needs one."""
        if self.reference is None:
            raise RuntimeError("the recipe needs a reference, and the learner was made without one")
        return self.reference

    @property
    def _critic(self) -> CriticLearner:
        if self.critic is None:
            raise RuntimeError("the recipe needs values, and the learner was made without a critic")
        return self.critic

    def _require_finite(self, losses: Losses, scored: Scored, part: Batch) -> None:
        if not math.isfinite(losses.policy.item()):
            raise NonFinite(f"the loss is {losses.policy.item()}: {_blame(scored, part)}")
        if losses.value is not None and not math.isfinite(losses.value.item()):
            raise NonFinite(f"the critic's loss is {losses.value.item()}")


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
