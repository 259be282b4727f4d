"""Measurements beside the training: they are what their names say, and they leave no trace."""

from __future__ import annotations

import pytest
import torch
from tiny import gradients, group, learner, random_groups

from upslope.algo.family import GRPO, IMPORTANCE, PPO, REINFORCE_BASELINE, SFT, TRPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K1, ExactKL, no_leash
from upslope.algo.update import KLBall
from upslope.rollout.address import Address
from upslope.train import metrics
from upslope.train.prepare import passes, weigh
from upslope.train.probe import Probe, surrogate_gradient

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
        probe = Probe(subject, batch) if look else None
        updated(subject, batch)
        if probe is not None:
            probe.row()
    assert all(torch.equal(m, two.optimizer.masters[n]) for n, m in one.optimizer.masters.items())


def test_what_is_pushed_up_and_down_adds_up_to_the_gradient():
    subject = learner(REINFORCE_BASELINE)
    batch = weigh(subject.prepare(random_groups(4, 3)), REINFORCE_BASELINE)
    subject.gradient(Objective(REINFORCE_BASELINE), batch)
    whole = -torch.cat([g.flatten() for g in gradients(subject).values()])
    torch.testing.assert_close(surrogate_gradient(subject, batch), whole, rtol=0, atol=1e-12)
    row = Probe(subject, batch).row()
    assert (
        abs(row["grad_norm_up"] - row["grad_norm_down"]) <= whole.norm() <= row["grad_norm_up"] + row["grad_norm_down"]
    )
    assert row["grad_norm_up"] > 0.01 and row["grad_norm_down"] > 0.01


def test_the_split_leaves_leash_and_critic_out():
    groups = random_groups(4, 3)
    plain = GRPO.patch(regulariser=no_leash)
    rows = []
    for recipe in (plain, GRPO):
        subject = learner(recipe)
        rows.append(Probe(subject, subject.prepare(groups)).row())
    assert rows[0]["grad_norm_up"] == pytest.approx(rows[1]["grad_norm_up"], rel=1e-9)


def test_kl_step_is_zero_before_and_that_of_the_step_after():
    recipe = TRPO.patch(update=KLBall(delta=1e-3))
    subject = learner(recipe)
    batch = subject.prepare(random_groups(4, 3))
    probe = Probe(subject, batch)
    assert probe.row()["kl_step"] == 0
    (outcome,) = updated(subject, batch)
    assert 0 < outcome.stats["kl_update"] <= 1e-3
    assert probe.row()["kl_step"] == pytest.approx(outcome.stats["kl_update"], rel=1e-9)


def test_imitation_and_empty_steps_have_nothing_to_measure():
    for recipe, groups in ((SFT, random_groups(2, 1)), (GRPO, [])):
        subject = learner(recipe)
        assert Probe(subject, subject.prepare(groups)).row() == {}


# -- numbers of a batch ---------------------------------------------------------------------------------------------


def test_kl_reference_is_zero_at_the_start_and_exact_where_it_is_computed():
    groups = random_groups(4, 3)
    for leash in (K1(), ExactKL(place="reward")):
        recipe = REINFORCE_BASELINE.patch(regulariser=leash)
        subject = learner(recipe)
        batch = subject.prepare(groups)
        row = metrics.of_batch(batch, groups, recipe)
        assert row["kl_reference"] > 0.1  # the tiny learner's reference is another model
    assert row["kl_reference"] == pytest.approx(float(batch.reference_kl_NT[batch.mask_NT].mean()))


def test_explained_variance_by_hand():
    """Returns 0 and 1 at two tokens each, values 0.25 and 0.75: what is left has a quarter of the variance."""
    subject = learner(PPO)
    groups = random_groups(2, 2, longest=1)
    batch = subject.prepare(groups)
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    hand = metrics.replace(batch, return_NT=target, value_NT=0.25 + target / 2)
    assert metrics.of_batch(hand, groups, PPO)["explained_variance"] == pytest.approx(1 - 0.0625 / 0.25)


def test_advantage_by_difficulty_by_hand():
    """One problem of each kind, with 1, 2 and 3 of 4 right. Of m right, |A| is 1 - m/4 on the right ones and m/4 on the
    others; attempts of one token each, so the mean over a group is 2 (m/4) (1 - m/4)."""
    rewards = {"hard": [1.0, 0, 0, 0], "medium": [1.0, 1, 0, 0], "easy": [1.0, 1, 1, 0]}
    groups = [group(name, [3], [[4], [5], [6], [7]], given) for name, given in rewards.items()]
    batch = learner(REINFORCE_BASELINE).prepare(groups)
    row = metrics.of_batch(batch, groups, REINFORCE_BASELINE)
    assert {n: row[f"advantage_{n}"] for n in rewards} == pytest.approx({"hard": 0.375, "medium": 0.5, "easy": 0.375})
    assert row["num_problems"] == 3 and row["num_kept"] == 12
