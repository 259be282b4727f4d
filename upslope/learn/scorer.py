"""Scores of given tokens under the present weights: states, log-probabilities, entropies, values, divergences from a
reference; in micro-batches, chunks and ranks, none of which changes a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.errors import UserError
from upslope.learn.chunks import micro_batches, most_trunk_tokens
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.forward import Forward
from upslope.learn.ranks import Alone, Ranks
from upslope.learn.settings import LOGITS_BUDGET
from upslope.model.distribution import TokenDistributions, divergence, entropy
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.model.scores import likeliest, most_tokens, token_scores
from upslope.model.states import States, rectangle
from upslope.types import Batch, Sampling

T = TypeVar("T")


def require_scorable(sampling: Sampling) -> None:
    """Raise UserError unless every drawn token can be scored under the distribution it was drawn from."""
    if not sampling.scorable:
        raise UserError(
            f"sample: temperature={sampling.temperature}, top_k={sampling.top_k}, top_p={sampling.top_p} cannot be "
            "scored exactly in training (a token cut away by top-k or top-p has no log-probability); set temperature "
            "above 0, top_k=0 and top_p=1"
        )


@dataclass
class Scorer:
    """A policy, the distribution that its tokens were drawn from, and what else is to be said of them."""

    policy: Policy
    sampling: Sampling = field(default_factory=Sampling)
    """Attempts are scored under the distribution they were drawn from; given text under the plain one."""
    needs: frozenset[str] = frozenset()
    """What the recipe's slots need (``upslope.algo.slots.NEEDS``)."""
    reference: Reference | None = None
    critic: CriticLearner | None = None
    micro_batch: int = 0
    """Rows in one pass; 0: as many as a budget allows."""
    ranks: Ranks = field(default_factory=Alone)
    top: int = 0
    """How many of the likeliest tokens at every state are told with a score, for whoever looks at it; 0: none."""

    def __post_init__(self) -> None:
        require_scorable(self.sampling)

    @property
    def warming(self) -> bool:
        """Whether the critic alone learns for now."""
        return self.critic is not None and self.critic.warming

    @property
    def must_refer(self) -> Reference:
        """The reference of a recipe that needs one."""
        if self.reference is None:
            raise RuntimeError("the recipe needs a reference, and the learner was made without one")
        return self.reference

    @property
    def must_value(self) -> CriticLearner:
        """The critic of a recipe that needs values."""
        if self.critic is None:
            raise RuntimeError("the recipe needs values, and the learner was made without a critic")
        return self.critic

    # -- scores with gradient -----------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Scored:
        """The batch's own tokens under the current weights, with gradient; values and exact KL if the recipe asks."""
        return self.forward(batch).whole()

    def forward(self, part: Batch) -> Forward:
        """The trunk's pass over some rows, from which ``whole`` or ``chunks`` follow."""
        with self.policy_grad():
            mine = self.policy.states(part.rollouts)
        theirs = self.must_refer.states(part.rollouts) if "reference_kl" in self.needs else None
        value_NT = None if self.critic is None else self.critic.values(part, self.policy, mine)
        most = most_tokens(self.policy.vocabulary, self.policy.budgets)
        return Forward(part, mine, theirs, value_NT, self._scored, most)

    def _scored(self, rows: Batch, mine: States, theirs: States | None, value_NT: Tensor | None) -> Scored:
        with self.policy_grad():
            logp_R, entropy_R, divergence_R = token_scores(
                self.policy,
                mine,
                self.sampling,
                other=None if theirs is None else (self.must_refer, theirs),
                entropy_gradient="entropy_gradient" in self.needs,
            )
        found = placed(rows, logp_R, entropy_R, divergence_R, value_NT)
        if not self.top:
            return found
        ids_RK, logp_RK = likeliest(self.policy, mine, self.sampling, self.top)
        return replace(found, top_NTK=rectangle(ids_RK, rows.mask_NT), top_logp_NTK=rectangle(logp_RK, rows.mask_NT))

    def policy_grad(self) -> AbstractContextManager[object]:
        """No graph of the policy while the critic alone learns."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self.warming)

    def distributions(self, part: Batch) -> TokenDistributions:
        """The policy's whole distribution before each chosen token."""
        return self.policy.distributions(part.rollouts, self.sampling)

    def scored(self, part: Batch, mine: TokenDistributions, *, penalty: bool = True) -> Scored:
        """Scores of the chosen tokens from whole distributions, entropy without gradient; values as the batch has
        them. ``penalty=False`` leaves the divergence from the reference out."""
        divergence_R = None
        if penalty and "reference_kl" in self.needs:
            divergence_R = divergence(mine.logp_RV, self.must_refer.distributions(part.rollouts, self.sampling).logp_RV)
        with torch.no_grad():
            entropy_R = entropy(mine.logp_RV)
        return placed(part, mine.logp_R, entropy_R, divergence_R, part.value_NT)

    # -- constants of an update ---------------------------------------------------------------------------------

    @torch.no_grad()
    def constants(self, batch: Batch, names: Sequence[str], dtype: torch.dtype) -> dict[str, Tensor]:
        """The batch's fields of these names, [N, T], under the current weights, without gradient."""
        if not names:
            return {}
        found = self.fitting(lambda: [(self._constants(part, names), counts) for part, counts in self.passes(batch)])
        mine = [fields for fields, counts in found if counts]
        parts = [part for of_rank in self.ranks.gather(mine) for part in of_rank]
        zeros = batch.mask_NT.to(dtype) * 0
        return {n: torch.cat([p[n] for p in parts]).to(dtype) if parts else zeros for n in names}

    def _constants(self, part: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        mine = theirs = None
        own = {"old_logp_NT", "present_logp_NT", "old_entropy_NT", "reference_kl_NT"} & set(names)
        if own or ("value_NT" in names and self.must_value.shares):
            mine = self.policy.states(part.rollouts)
        if {"reference_logp_NT", "reference_kl_NT"} & set(names):
            theirs = self.must_refer.states(part.rollouts)
        if theirs is not None and "reference_logp_NT" in names:
            logp_R = token_scores(self.must_refer, theirs, self.sampling).logp_R
            found["reference_logp_NT"] = rectangle(logp_R, part.mask_NT)
        if mine is not None and own:
            other = (self.must_refer, theirs) if theirs is not None and "reference_kl_NT" in names else None
            logp_R, entropy_R, divergence_R = token_scores(self.policy, mine, self.sampling, other=other)
            found["old_logp_NT"] = found["present_logp_NT"] = rectangle(logp_R, part.mask_NT)
            found["old_entropy_NT"] = rectangle(entropy_R, part.mask_NT)
            if divergence_R is not None:
                found["reference_kl_NT"] = rectangle(divergence_R, part.mask_NT)
        if "value_NT" in names:
            found["value_NT"] = self.must_value.values(part, self.policy, mine)
        return found

    # -- rows ---------------------------------------------------------------------------------------------------

    def passes(self, batch: Batch, *, most_logits: int | None = None) -> Iterator[tuple[Batch, bool]]:
        """Micro-batches of this rank's share of the rows, each with whether its rows count (``Ranks.passes``)."""
        return self.ranks.passes(self.micro_batches(self.ranks.share(batch), most_logits=most_logits), batch)

    def micro_batches(
        self, batch: Batch, *, most_tokens: int | None = None, most_logits: int | None = None
    ) -> Iterator[Batch]:
        """Consecutive rows, as many at a time as the setting says, or as have ``most_tokens`` (None: what the model's
        size allows) and ``most_logits`` (None: no bound, unless the model makes all of them at once)."""
        budgets = self.policy.budgets
        tokens = most_trunk_tokens(self.policy)
        if most_tokens is not None:
            tokens = budgets.bounded("micro_tokens", most_tokens)
        rows = budgets.bounded("micro_rows", self.micro_batch)
        if most_logits is None and not self.policy.apart:
            most_logits = budgets.logits(LOGITS_BUDGET)
        return micro_batches(batch, self.policy, most_rows=rows, most_tokens=tokens, most_logits=most_logits)

    def fitting(self, work: Callable[[], T]) -> T:
        """``work``, again in smaller pieces if the device runs out of memory (``Budgets.learning``). Several ranks
        would have to begin anew together, so there it ends the run."""
        return self.policy.budgets.learning(work) if self.ranks.size == 1 else work()


def placed(
    rows: Batch, logp_R: Tensor, entropy_R: Tensor, divergence_R: Tensor | None, value_NT: Tensor | None
) -> Scored:
    """Scores of the chosen tokens, in the order of rollouts and of their tokens, at their places among zeros."""
    kl_NT = None if divergence_R is None else rectangle(divergence_R, rows.mask_NT)
    return Scored(rectangle(logp_R, rows.mask_NT), rectangle(entropy_R, rows.mask_NT), kl_NT, value_NT)
