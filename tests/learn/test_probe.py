"""Measurements beside the training: they are what their names say, and they leave no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import gradients, group, learner, random_groups

from upslope.algo.advantage import GAE
from upslope.algo.critic import OwnCopy
from upslope.algo.family import GRPO, IMPORTANCE, PPO, REINFORCE_BASELINE, SFT, TRPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K1, ExactKL, no_penalty
from upslope.algo.update import KLBall
from upslope.learn.prepare import judge, passes, to_batch, weigh
from upslope.learn.probe import Probe, surrogate_gradient
from upslope.rollout.address import Address
from upslope.training import metrics

RECIPES = {"baseline": REINFORCE_BASELINE, "importance": IMPORTANCE, "grpo": GRPO, "ppo": PPO, "trpo": TRPO}


def updated(subject, batch):
    recipe = subject.recipe
    return [recipe.update(subject, Objective(recipe), m) for m in passes(batch, recipe, Address(0, "reuse"))]


@pytest.mark.parametrize("name", RECIPES)
def test_a_probe_changes_nothing(name):
    one, two = learner(RECIPES[name]), learner(RECIPES[name])
    groups = random_groups(4, 3)
    for subject, look in ((one, True), (two, False)):
        batch = subject.prepare(groups)
        probe = Probe(subject.learner, subject.recipe, batch) if look else None
        updated(subject, batch)
        if probe is not None:
            probe.row()
    assert all(torch.equal(m, two.optimizer.masters[n]) for n, m in one.optimizer.masters.items())


def test_what_is_pushed_up_and_down_adds_up_to_the_gradient():
    subject = learner(REINFORCE_BASELINE)
    batch = weigh(subject.prepare(random_groups(4, 3)), REINFORCE_BASELINE)
    subject.gradient(Objective(REINFORCE_BASELINE), batch)
    whole = -torch.cat([g.flatten() for g in gradients(subject).values()])
    torch.testing.assert_close(
        surrogate_gradient(subject.learner, REINFORCE_BASELINE, batch), whole, rtol=0, atol=1e-12
    )
    row = Probe(subject.learner, subject.recipe, batch).row()
    assert (
        abs(row["grad_norm_up"] - row["grad_norm_down"]) <= whole.norm() <= row["grad_norm_up"] + row["grad_norm_down"]
    )
    assert row["grad_norm_up"] > 0.01 and row["grad_norm_down"] > 0.01


def test_the_split_leaves_penalty_and_critic_out():
    groups = random_groups(4, 3)
    plain = GRPO.patch(regulariser=no_penalty)
    rows = []
    for recipe in (plain, GRPO):
        subject = learner(recipe)
        rows.append(Probe(subject.learner, recipe, subject.prepare(groups)).row())
    assert rows[0]["grad_norm_up"] == pytest.approx(rows[1]["grad_norm_up"], rel=1e-9)


def test_kl_step_is_zero_before_and_that_of_the_step_after():
    recipe = TRPO.patch(update=KLBall(delta=1e-3))
    subject = learner(recipe)
    batch = subject.prepare(random_groups(4, 3))
    probe = Probe(subject.learner, subject.recipe, batch)
    assert probe.row()["kl_step"] == 0
    (outcome,) = updated(subject, batch)
    assert 0 < outcome.stats["kl_update"] <= 1e-3
    assert probe.row()["kl_step"] == pytest.approx(outcome.stats["kl_update"], rel=1e-9)


def test_of_many_tokens_some_problems_are_measured(monkeypatch):
    """Six problems of three attempts; a bound of a third of their tokens leaves two problems, evenly spaced."""
    subject = learner(REINFORCE_BASELINE)
    batch = subject.prepare(random_groups(6, 3))
    monkeypatch.setattr("upslope.learn.probe.MOST_TOKENS", int(batch.mask_NT.sum()) // 3)
    some = Probe(subject.learner, subject.recipe, batch)
    rows = [n for n, g in enumerate(batch.group_N.tolist()) if g in (0, 3)]
    alone = Probe(subject.learner, subject.recipe, batch.take(rows))
    monkeypatch.undo()
    everything = Probe(subject.learner, subject.recipe, batch)
    updated(subject, batch)
    assert some.row()["kl_step"] == pytest.approx(alone.row()["kl_step"], rel=1e-12)
    assert some.row()["kl_step"] != everything.row()["kl_step"]
    assert some.row()["grad_norm_up"] == everything.row()["grad_norm_up"], "the gradient is of the whole batch"


def test_imitation_and_empty_steps_have_nothing_to_measure():
    for recipe, groups in ((SFT, random_groups(2, 1)), (GRPO, [])):
        subject = learner(recipe)
        assert Probe(subject.learner, recipe, subject.prepare(groups)).row() == {}


# -- numbers of a batch ---------------------------------------------------------------------------------------------


def test_kl_reference_is_zero_at_the_start_and_exact_where_it_is_computed():
    groups = random_groups(4, 3)
    for penalty in (K1(), ExactKL(place="reward")):
        recipe = REINFORCE_BASELINE.patch(regulariser=penalty)
        subject = learner(recipe)
        batch = subject.prepare(groups)
        row = metrics.of_batch(batch, groups, recipe)
        assert row["kl_reference"] > 0.1  # the tiny learner's reference is another model
    assert row["kl_reference"] == pytest.approx(float(batch.reference_kl_NT[batch.mask_NT].mean()))


def test_explained_variance_by_hand():
    """Outcomes 0 and 1 at two tokens each, values 0.25 and 0.75: what is left has a quarter of the deviation. What the
    critic is taught with is not asked."""
    subject = learner(PPO)
    groups = random_groups(2, 2, longest=1)
    batch = subject.prepare(groups)
    outcome = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    hand = replace(batch, reward_NT=outcome, return_NT=outcome * 0, value_NT=0.25 + outcome / 2)
    assert metrics.of_batch(hand, groups, PPO)["explained_variance"] == pytest.approx(1 - 0.0625 / 0.25)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
@pytest.mark.parametrize("length", [32, 128])
def test_values_that_are_noise_explain_nothing_however_long_the_attempts(length, lam):
    """V independent of the outcome: 1 - (Var G + Var V) / Var G = -Var V / Var G, here about -(1/4) / (1/4) = -1, the
    same at both lengths. Against lambda-returns, which hold V themselves, it would be +0.02 at 32 tokens and +0.76 at
    128 with lambda = 0.95."""
    draw = torch.Generator().manual_seed(0)
    groups = [
        group(f"p{i}", [1], [[5] * length] * 8, (torch.rand(8, generator=draw) < 0.5).double().tolist())
        for i in range(32)
    ]
    recipe = PPO.patch(regulariser=no_penalty, advantage=GAE(lam=lam), critic=OwnCopy(lam=lam))
    batch = to_batch(groups, torch.device("cpu"), torch.float64)
    value_NT = 0.5 * torch.randn(256, 1, generator=draw, dtype=torch.float64).expand(256, length).contiguous()
    batch = judge(replace(batch, value_NT=value_NT), recipe)
    found = metrics.of_batch(batch, groups, recipe)["explained_variance"]
    spread = (batch.reward_N - batch.reward_N.mean()).square().mean()
    noise = (batch.reward_N - value_NT[:, 0]).var(correction=0)
    assert found == pytest.approx(1 - float(noise / spread), rel=1e-9)
    assert -1.3 < found < -0.7


def test_the_outcome_is_discounted_as_the_advantage_says():
    """Two tokens and gamma = 1/2: outcomes 1/2, 1 and 0, 0. A critic that says so explains everything."""
    recipe = PPO.patch(regulariser=no_penalty, advantage=GAE(gamma=0.5))
    groups = [group("p", [1], [[5, 5], [6, 6]], [1.0, 0.0])]
    batch = to_batch(groups, torch.device("cpu"), torch.float64)
    batch = judge(replace(batch, value_NT=torch.tensor([[0.5, 1.0], [0, 0]], dtype=torch.float64)), recipe)
    assert metrics.of_batch(batch, groups, recipe)["explained_variance"] == 1


def test_there_is_nothing_to_explain_about_equal_outcomes():
    recipe = PPO.patch(regulariser=no_penalty)
    groups = [group("p", [1], [[5, 5], [6, 6]], [0.1 + 0.2, 0.3])]
    batch = to_batch(groups, torch.device("cpu"), torch.float64)
    batch = judge(replace(batch, value_NT=torch.rand(2, 2, dtype=torch.float64)), recipe)
    assert metrics.of_batch(batch, groups, recipe)["explained_variance"] == 0


def test_advantage_by_difficulty_by_hand():
    """One problem of each kind, with 1, 2 and 3 of 4 right. Of m right, |A| is 1 - m/4 on the right ones and m/4 on the
    others; attempts of one token each, so the mean over a group is 2 (m/4) (1 - m/4)."""
    rewards = {"hard": [1.0, 0, 0, 0], "medium": [1.0, 1, 0, 0], "easy": [1.0, 1, 1, 0]}
    groups = [group(name, [3], [[4], [5], [6], [7]], given) for name, given in rewards.items()]
    batch = learner(REINFORCE_BASELINE).prepare(groups)
    row = metrics.of_batch(batch, groups, REINFORCE_BASELINE)
    assert {n: row[f"advantage_{n}"] for n in rewards} == pytest.approx({"hard": 0.375, "medium": 0.5, "easy": 0.375})
    assert row["num_problems"] == 3 and row["num_kept"] == 12
