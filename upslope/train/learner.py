"""The learner: scores sampled tokens, turns groups into a batch, and moves the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.algo.outcome import Loss, Outcome, Scored, Trace
from upslope.algo.recipe import Recipe
from upslope.errors import NonFinite, UserError
from upslope.model.policy import Policy
from upslope.train.optimizer import Optimizer
from upslope.train.prepare import judge, silent_rows, to_batch
from upslope.train.settings import LearnSettings
from upslope.types import Batch, Group, Sampling

LOGITS_BUDGET = 64 * 2**20
"""Logits held at once in one micro-batch (entries), when the micro-batch size is left to us."""
TOKEN_BUDGET = 16 * 2**10


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
    """A policy, its optimizer, and the distribution its attempts were drawn from."""

    policy: Policy
    recipe: Recipe
    sampling: Sampling
    settings: LearnSettings
    optimizer: Optimizer
    watch: Callable[[int, int], None] = lambda done, total: None
    """Told after every micro-batch how many rows of how many have their gradient."""

    def __post_init__(self) -> None:
        if self.recipe.acts:
            require_scorable(self.sampling)

    @property
    def scoring(self) -> Sampling:
        """Attempts are scored under the distribution they were drawn from; given text under the plain one."""
        return self.sampling if self.recipe.acts else Sampling()

    def prepare(self, groups: Sequence[Group]) -> Batch:
        """Rewards to advantages, and whatever else the recipe's slots need."""
        batch = judge(to_batch(groups, self.policy.device, self._dtype), self.recipe)
        if "old_logp" in self.recipe.needs and self.recipe.reuse.num_updates > 1:
            batch = replace(batch, old_logp_NT=self._score_all(batch))
        return batch

    def gradient(self, objective: Loss, minibatch: Batch) -> Outcome:
        """Leave the gradient over the whole mini-batch in the masters, adding up micro-batches.

        With one update a batch the old log-probabilities are the new ones detached: no second forward pass.
        """
        self.optimizer.zero()
        silent = silent_rows(minibatch, self.recipe)
        loud = minibatch.take([i for i, s in enumerate(silent) if not s])
        loss_sum, num_done, traces = 0.0, 0, []
        for part in self.micro_batches(loud):
            scored = self.score(part)
            if "old_logp" in self.recipe.needs and part.old_logp_NT is None:
                part = replace(part, old_logp_NT=scored.logp_NT.detach())
            loss, trace = objective(scored, part)
            if not math.isfinite(loss.item()):
                raise NonFinite(f"the loss is {loss.item()}: {_blame(scored, part)}")
            loss.backward()  # type: ignore[no-untyped-call]
            loss_sum += loss.item()
            traces.append(trace)
            num_done += part.num_rollouts
            self.watch(num_done, loud.num_rollouts)
        return Outcome(loud, Trace.join(traces), {"loss": loss_sum})

    def step(self) -> dict[str, float]:
        return self.optimizer.step()

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights, for the engine."""
        return self.policy.weights()

    def score(self, batch: Batch) -> Scored:
        """The batch's own tokens under the current weights, with gradient."""
        return Scored(*self.policy.score(batch.rollouts, self.scoring, batch.mask_NT.shape[1]))

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
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
                many_logits = (logits + with_logits) * self.policy.vocabulary > LOGITS_BUDGET
                full = many_logits or tokens + response + (0 if shared else prompt) > TOKEN_BUDGET
            if rows and full:
                yield batch.take(rows)
                rows, logits, tokens, shared = [], 0, 0, False
            rows.append(row)
            logits += with_logits
            tokens += response + (0 if shared else prompt)
        if rows:
            yield batch.take(rows)

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.optimizer.masters.values())).dtype

    @torch.no_grad()
    def _score_all(self, batch: Batch) -> Tensor:
        parts = [self.score(part).logp_NT for part in self.micro_batches(batch)]
        return torch.cat(parts) if parts else batch.mask_NT.to(self._dtype)


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
