"""A penalty that is paid in the reward compares like with like: the learner's policy with the learner's reference."""

from dataclasses import replace

import pytest
import torch
from tiny import TOKENIZER, drawn, model, policy, random_groups

from upslope.algo.critic import OwnCopy
from upslope.algo.family import FAMILY, GRPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K2, K3, ExactKL
from upslope.algo.reuse import Reuse
from upslope.learn.bound import BoundLearner
from upslope.learn.build import build_learner
from upslope.learn.prepare import passes
from upslope.learn.settings import LearnSettings
from upslope.model import admission
from upslope.model.adapter import add_adapter
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.model.reference import Reference
from upslope.model.value import value_model
from upslope.rollout.address import Address
from upslope.training import metrics
from upslope.types import Sampling, Score

PAID = {name: branch.recipe for name, branch in FAMILY.items() if branch.recipe.penalty_place == "reward"} | {
    "k2": GRPO.patch(regulariser=K2(place="reward")),
    "k3": GRPO.patch(regulariser=K3(place="reward")),
    "exact": GRPO.patch(regulariser=ExactKL(place="reward")),
}
SHORT = Sampling(max_tokens=8)


def at_the_start(recipe, dtype, adapter=False):
    """A learner whose reference is the policy itself, as on the first step of every run."""
    masters = torch.float64 if dtype == torch.float64 else torch.float32
    made = model(dtype=masters)
    admission.admit(made)
    value = value_model(made, own_copy=isinstance(recipe.critic, OwnCopy)) if recipe.has_critic else None
    if adapter:
        made = add_adapter(made, rank=2, alpha=8.0, targets="all-linear", seed=0)
    subject = Policy(made, TOKENIZER)
    reference = Reference(subject, None) if adapter else Reference.of(subject)
    if reference.frozen is not None:
        cast_weights(reference.frozen.model, dtype)
    settings = LearnSettings(lr=1e-3, warmup=0)
    learner = build_learner(
        subject,
        recipe,
        settings,
        sampling=SHORT,
        num_updates=10 + recipe.asked("critic").warmup,
        dtype=dtype,
        reference=reference,
        value=value,
    )
    return BoundLearner(recipe, learner)


def sampled(subject, reward=0.0):
    """Attempts of the learner's own sampler, all with one reward."""
    asked = [g.problem for g in random_groups(3, 1)]
    asked = [replace(p, messages=({"role": "user", "content": f"{i} pens"},)) for i, p in enumerate(asked)]
    attempts = drawn(subject.policy, asked, 4, SHORT, Address(0, "sample"))
    groups = random_groups(3, 1)
    return [
        replace(g, problem=p, rollouts=tuple(replace(r, score=Score(reward)) for r in rollouts))
        for g, p, rollouts in zip(groups, asked, attempts, strict=True)
    ]


def rounded_elsewhere(groups):
    """The same attempts as a program with other kernels would log them: off by a thousandth, either way."""
    return [
        replace(
            g,
            rollouts=tuple(
                replace(r, logp=tuple(x + 1e-3 * (-1) ** (i + r.sample) for i, x in enumerate(r.logp)))
                for r in g.rollouts
            ),
        )
        for g in groups
    ]


STARTS = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "adapter, float32": (torch.float32, True),
    "adapter, bfloat16": (torch.bfloat16, True),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", PAID)
def test_a_policy_equal_to_its_reference_pays_nothing_at_all(name, start):
    """Whatever rounding the sampler's arithmetic has, and however many updates the batch gets: the cost is 0, so equal
    rewards have advantage 0 exactly where the batch is normalised (rounding noise over its own deviation is 1)."""
    dtype, adapter = STARTS[start]
    if adapter:
        pytest.importorskip("peft")
    for reuse in (Reuse(), Reuse(epochs=2)):
        recipe = PAID[name].patch(reuse=reuse)
        subject = at_the_start(recipe, dtype, adapter)
        groups = rounded_elsewhere(sampled(subject))
        batch = subject.prepare(groups)
        assert not recipe.regulariser.cost(batch).any()
        assert not batch.reward_NT.any()
        assert metrics.of_batch(batch, groups, recipe)["kl_reference"] == 0
        if not recipe.has_critic:
            assert not batch.advantage_NT.any()


@pytest.mark.parametrize("name", PAID)
def test_the_samplers_log_probabilities_play_no_part(name):
    """Another program's rounding, put in by hand, changes neither costs nor advantages."""
    subject = at_the_start(PAID[name], torch.float64)
    subject.scorer.reference = Reference(subject.policy, policy(seed=1))
    groups = sampled(subject, 1.0)
    off = [
        replace(g, rollouts=tuple(replace(r, logp=tuple(x + 0.1 for x in r.logp)) for r in g.rollouts)) for g in groups
    ]
    one, other = subject.prepare(groups), subject.prepare(off)
    assert one.reward_NT.any()
    assert torch.equal(one.reward_NT, other.reward_NT)
    assert torch.equal(one.advantage_NT, other.advantage_NT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_distance_in_the_journal_is_zero_at_the_start_too(dtype):
    """With a penalty in the loss and one update nothing is scored before: the update's own scores are compared."""
    subject = at_the_start(GRPO, dtype)
    groups = rounded_elsewhere(sampled(subject))
    batch = subject.prepare(groups)
    assert batch.old_logp_NT is None
    (minibatch,) = passes(batch, GRPO, Address(0, "reuse"))
    outcomes = [GRPO.update(subject, Objective(GRPO), minibatch)]
    row = metrics.of_batch(batch, groups, GRPO, outcomes)
    assert row["kl_reference"] == 0
    assert "kl_reference" not in metrics.of_batch(batch, groups, GRPO), "nobody has scored the policy yet"


def test_the_distance_in_the_journal_is_that_of_the_learner():
    """k3 by hand from what the first update scored, against another reference."""
    subject = at_the_start(GRPO, torch.float64)
    subject.scorer.reference = Reference(subject.policy, policy(seed=1))
    groups = rounded_elsewhere(sampled(subject))
    batch = subject.prepare(groups)
    with torch.no_grad():
        mine_NT = subject.score(batch).logp_NT
    d = (batch.reference_logp_NT - mine_NT)[batch.mask_NT]
    (minibatch,) = passes(batch, GRPO, Address(0, "reuse"))
    outcomes = [GRPO.update(subject, Objective(GRPO), minibatch)]
    expected = float((d.exp() - 1 - d).mean())
    assert expected > 0.1
    assert metrics.of_batch(batch, groups, GRPO, outcomes)["kl_reference"] == pytest.approx(expected, rel=1e-9)
