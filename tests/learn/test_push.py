"""What is written down of every token's update: how hard it was pushed, and what else it could have been."""

from __future__ import annotations

import pytest
import torch
from tiny import gradients, largest_gap, learner, random_groups

from upslope.algo.family import FAMILY
from upslope.algo.objective import Objective
from upslope.algo.regulariser import no_penalty
from upslope.learn.prepare import passes
from upslope.rollout.address import Address

RECIPES = [
    "sft",
    "reinforce",
    "reinforce-baseline",
    "rloo",
    "importance",
    "grpo",
    "dapo",
    "cispo",
    "gspo",
    "dr-grpo",
    "maxrl",
]


def updated(name, **settings):
    """A learner of that recipe without its penalty, with the gradient of its first update left, and what came of it."""
    recipe = FAMILY[name].recipe.patch(regulariser=no_penalty)
    subject = learner(recipe, **settings)
    batch = subject.prepare(random_groups(4, 3))
    minibatch = next(iter(passes(batch, recipe, Address(0, "reuse"))))
    return subject, subject.gradient(Objective(recipe), minibatch)


@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_is_the_pushes_along_the_slopes_of_the_log_probabilities(name):
    """grad loss = - sum_t push_t grad log pi(y_t): the chain rule, with the pushes as they are written down."""
    subject, outcome = updated(name)
    expected = gradients(subject)
    subject.optimizer.zero()
    scored = subject.scorer.score(outcome.minibatch)
    (-(outcome.trace.push_NT * scored.logp_NT).sum()).backward()
    subject.optimizer.gather(subject.scorer.ranks)
    assert largest_gap(gradients(subject), expected) < 1e-12
    assert outcome.trace.push_NT.abs().max() > 0


def test_without_a_baseline_a_push_is_weight_times_advantage():
    _, outcome = updated("reinforce")
    batch = outcome.minibatch
    expected = batch.weight_NT * batch.advantage_NT * batch.mask_NT
    assert torch.allclose(outcome.trace.push_NT, expected, atol=1e-15)


@pytest.mark.parametrize("size", [1, 5])
def test_pushes_do_not_depend_on_micro_batches(size):
    whole, parts = updated("grpo")[1], updated("grpo", micro_batch=size)[1]
    assert torch.allclose(whole.trace.push_NT, parts.trace.push_NT, atol=1e-14)


def test_the_likeliest_tokens_are_told_and_change_nothing():
    subject, plain = updated("grpo")
    recipe = FAMILY["grpo"].recipe.patch(regulariser=no_penalty)
    other = learner(recipe)
    other.scorer.top = 3
    minibatch = next(iter(passes(other.prepare(random_groups(4, 3)), recipe, Address(0, "reuse"))))
    outcome = other.gradient(Objective(recipe), minibatch)
    assert largest_gap(gradients(other), gradients(subject)) == 0
    assert plain.trace.top_NTK is None
    trace, mask_NT = outcome.trace, outcome.minibatch.mask_NT
    distributions = other.scorer.distributions(outcome.minibatch).logp_RV
    logp_RK, ids_RK = distributions.topk(3, dim=1)
    assert torch.equal(trace.top_NTK[mask_NT], ids_RK)
    assert torch.allclose(trace.top_logp_NTK[mask_NT], logp_RK, atol=1e-12)
    assert trace.top_NTK.shape == (*mask_NT.shape, 3)
