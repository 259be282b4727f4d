"""A learner around a policy, as a recipe needs it."""

from __future__ import annotations

import torch

from upslope.algo.critic import LearnedCritic, OwnCopy
from upslope.algo.recipe import Recipe
from upslope.learn.critic_learner import make_critic
from upslope.learn.learner import Learner
from upslope.learn.optimizer import LocalOptimizer, MakeOptimizer
from upslope.learn.ranks import Alone, Ranks
from upslope.learn.scorer import Scorer
from upslope.learn.settings import LearnSettings
from upslope.model.policy import Policy
from upslope.model.reference import Reference
from upslope.model.value import ValueModel, value_model
from upslope.types import Sampling


def build_learner(
    policy: Policy,
    recipe: Recipe,
    settings: LearnSettings,
    *,
    sampling: Sampling,
    num_updates: int,
    dtype: torch.dtype,
    reference: Reference | None = None,
    value: ValueModel | None = None,
    ranks: Ranks | None = None,
    make_optimizer: MakeOptimizer = LocalOptimizer,
) -> Learner:
    """A learner that leaves the policy computing in ``dtype``.

    ``sampling`` is what attempts are drawn from; ``num_updates`` those of the whole run, the critic's warm-up
    included. A recipe that refers without ``reference`` gets a copy of the policy as it is now; one with a critic
    without ``value`` a new one. Raises UserError for a distribution that cannot be scored.
    """
    critic = None
    reference, value = with_needed(policy, recipe, reference, value)
    optimizer = make_optimizer(policy.model, settings, num_updates - recipe.asked("critic").warmup, dtype, frozenset())
    if isinstance(recipe.critic, LearnedCritic) and value is not None:
        critic = make_critic(recipe.critic, value, optimizer, num_updates, make_optimizer)
    scorer = Scorer(
        policy,
        sampling if recipe.acts else Sampling(),
        recipe.needs,
        reference if recipe.refers else None,
        critic,
        settings.micro_batch,
        ranks or Alone(),
    )
    learner = Learner(scorer, optimizer)
    owed = 0 if settings.offload else sum(o.master_bytes + o.moment_bytes for o in learner.optimizers)
    policy.budgets.measure(owed)
    return learner


def with_needed(
    policy: Policy, recipe: Recipe, reference: Reference | None, value: ValueModel | None
) -> tuple[Reference | None, ValueModel | None]:
    """What the recipe needs of the two and was not given, made of the policy as it is now."""
    if isinstance(recipe.critic, LearnedCritic) and value is None:
        value = value_model(policy.model, own_copy=isinstance(recipe.critic, OwnCopy))
    if recipe.refers and reference is None:
        reference = Reference.of(policy)
    return reference, value
