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
from upslope.model.distribution import divergence, entropy
from upslope.model.policy import Policy, Said
from upslope.model.reference import Reference
from upslope.train.critic import CriticLearner
from upslope.train.landscape import Landscape
from upslope.train.optimizer import Optimizer
from upslope.train.prepare import judge, silent_rows, to_batch, with_old
from upslope.train.settings import LOGITS_BUDGET, TOKEN_BUDGET, LearnSettings
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

        With one update a batch the old log-probabilities are the new ones of that update, detached: no pass here.
        """
        needs = self.recipe.needs
        wanted = {
            "old_logp_NT": "old_logp" in needs and self.recipe.reuse.num_updates > 1,
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
        shape = (part.num_rollouts, part.mask_NT.shape[1])
        found: dict[str, Tensor] = {}
        mine = None
        if {"old_logp_NT", "reference_kl_NT"} & set(names) or ("value_NT" in names and self._critic.shares):
            mine = self.policy.say(part.rollouts, self.scoring, hidden=self.critic is not None and self.critic.shares)
            found["old_logp_NT"] = mine.rectangle(mine.logp_R, shape)
        if {"reference_logp_NT", "reference_kl_NT"} & set(names):
            theirs = self._reference.say(part.rollouts, self.scoring)
            found["reference_logp_NT"] = theirs.rectangle(theirs.logp_R, shape)
            if mine is not None and "reference_kl_NT" in names:
                found["reference_kl_NT"] = mine.rectangle(divergence(mine.logp_RV, theirs.logp_RV), shape)
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
        silent = silent_rows(minibatch, self.recipe)
        loud = minibatch.take([i for i, s in enumerate(silent) if not s])
        sums = {"loss": 0.0} | ({"value_loss": 0.0} if self.critic is not None else {})
        num_done, traces = 0, []
        for part in self.micro_batches(loud):
            scored = self.score(part)
            losses, trace = objective(scored, with_old(part, scored.logp_NT, self.recipe))
            self._require_finite(losses, scored, part)
            loss = losses.total if not self.warming else given(losses.value, "value")
            loss.backward()  # type: ignore[no-untyped-call]
            sums["loss"] += losses.policy.item()
            if losses.value is not None:
                sums["value_loss"] += losses.value.item()
            traces.append(trace)
            num_done += part.num_rollouts
            self.watch(num_done, loud.num_rollouts)
        trace_of_all = Trace.join(traces)
        if trace_of_all is not None:
            loud = with_old(loud, trace_of_all.logp_NT, self.recipe)
        return Outcome(loud, trace_of_all, sums)

    def step(self) -> Stats:
        """Let policy and critic take a step; while the critic warms up, it alone."""
        if self.critic is None:
            return self.optimizer.step()
        warming = {"warming": float(self.warming)}
        stats = {"grad_norm": 0.0, "lr": 0.0} if self.warming else self.optimizer.step()
        return stats | warming | self.critic.step()

    def terrain(self, objective: Loss, minibatch: Batch, fisher_share: float = 1.0) -> Landscape:
        """The surroundings of the present weights; see ``upslope.algo.update.Terrain``."""
        return Landscape(self, objective, minibatch, fisher_share)

    def settle(self) -> Stats:
        """Count a move made without the optimizer, check that the weights are finite, and let the critic step."""
        self.optimizer.count()
        return {"lr": 0.0} | ({} if self.critic is None else self.critic.step())

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights, for the engine."""
        return self.policy.weights()

    # -- score --------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Scored:
        """The batch's own tokens under the current weights, with gradient; values and exact KL if the recipe asks."""
        said = self.policy.say(batch.rollouts, self.scoring, hidden=self.critic is not None and self.critic.shares)
        return self.scored(batch, said, None if self.critic is None else self.critic.values(batch, self.policy, said))

    def scored(self, batch: Batch, said: Said, value_NT: Tensor | None) -> Scored:
        """What the policy said about the batch, as rectangles."""
        needs, shape = self.recipe.needs, (batch.num_rollouts, batch.mask_NT.shape[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and "entropy_gradient" in needs):
            entropy_R = entropy(said.logp_RV)
        divergence_NT = None
        if "reference_kl" in needs:
            theirs = self._reference.say(batch.rollouts, self.scoring)
            divergence_NT = said.rectangle(divergence(said.logp_RV, theirs.logp_RV), shape)
        return Scored(said.rectangle(said.logp_R, shape), said.rectangle(entropy_R, shape), divergence_NT, value_NT)

    def micro_batches(
        self, batch: Batch, *, token_budget: int = TOKEN_BUDGET, logits_budget: int = LOGITS_BUDGET
    ) -> Iterator[Batch]:
        """Consecutive rows, as many at a time as the setting or the budgets allow; never fewer than one."""
        rows: list[int] = []
        logits = tokens = 0
        for row, rollout in enumerate(batch.rollouts):
            prompt, response = len(rollout.prompt), len(rollout.response)
            shared = bool(rows) and self.policy.packs and batch.rollouts[rows[-1]].prompt == rollout.prompt
            with_logits = response if self.policy.packs else prompt + response
            if self.settings.micro_batch:
                full = len(rows) == self.settings.micro_batch
            else:
                many_logits = (logits + with_logits) * self.policy.vocabulary > logits_budget
                full = many_logits or tokens + response + (0 if shared else prompt) > token_budget
            if rows and full:
                yield batch.take(rows)
                rows, logits, tokens, shared = [], 0, 0, False
            rows.append(row)
            logits += with_logits
            tokens += response + (0 if shared else prompt)
        if rows:
            yield batch.take(rows)

    # -- small things -------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.optimizer.masters.values())).dtype

    @property
    def _reference(self) -> Reference:
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
            f"token {column} of sample {rollout.sample} of problem {rollout.problem} has log-probability "
            f"{scored.logp_NT[row, column].item()} under the current weights"
        )
    return "all log-probabilities are finite, so a reward, an advantage or a ratio is not"
