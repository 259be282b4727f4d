"""Attempts in which the world speaks: every recipe learns from the chosen tokens alone.

The naive way has no holes at all. Every attempt is cut down to the tokens that its policy chose, and a policy that
remembers the whole attempts scores them where they stood, one row at a time and without packing. So whatever masks
(advantages, penalties, aggregates, ratios of whole attempts, critics, trust regions, metrics) has nothing left to mask
there, and must come to the same.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import ClassVar

import pytest
import tiny
import torch
from tiny import RECIPES as FAMILY_RECIPES, gradients, largest_gap, learner, policy, random_groups

from upslope.algo.advantage import GAE
from upslope.algo.critic import OwnCopy, SharedTrunk
from upslope.algo.family import GRPO, PPO, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K1, K2, EntropyBonus, ExactKL
from upslope.algo.returns import generalised_advantage
from upslope.algo.reuse import Reuse
from upslope.algo.surrogate import ImportanceRatio, SequenceRatio
from upslope.learn.prepare import passes
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.training.metrics import of_batch, of_correction, of_updates

HERE = Address(0, "reuse")
RECIPES = FAMILY_RECIPES | {
    "critic on a copy": PPO.patch(critic=OwnCopy(warmup=0)),
    "critic on the trunk": PPO.patch(critic=SharedTrunk(warmup=0)),
    "discount": PPO.patch(advantage=GAE(gamma=0.9, lam=0.8)),
    "exact penalty": GRPO.patch(regulariser=ExactKL()),
    "exact penalty in the reward": GRPO.patch(regulariser=ExactKL(place="reward")),
    "k1 in the reward": REINFORCE_BASELINE.patch(regulariser=K1()),
    "k2 in the loss": REINFORCE_BASELINE.patch(regulariser=K2()),
    "entropy bonus": GRPO.patch(regulariser=EntropyBonus()),
    "ratio of whole attempts": REINFORCE_BASELINE.patch(surrogate=ImportanceRatio(level="trajectory")),
    "ratio of attempts, by token": GRPO.patch(surrogate=SequenceRatio(level="token")),
}


def holed(groups, seed=1):
    """The groups with the world's words in between: at first, in the middle, several times, at last (where an attempt
    was cut); of every group one attempt has none. The sampler's log-probabilities are near a tiny model's."""
    rng = random.Random(seed)
    ends = policy().end_ids

    def spoken(rollout):
        response, mask, logp = [], [], []
        for token in (*rollout.response, None):
            if rng.random() < 0.35 and rollout.sample != 1:
                said = [rng.choice([5, 9, 60, *ends]) for _ in range(rng.randint(1, 4))]
                response, mask, logp = response + said, mask + [False] * len(said), logp + [0.0] * len(said)
            if token is not None:
                response, mask, logp = [*response, token], [*mask, True], [*logp, rng.uniform(-6, -4)]
        return replace(rollout, response=tuple(response), mask=tuple(mask), logp=tuple(logp))

    return [replace(g, rollouts=tuple(map(spoken, g.rollouts))) for g in groups]


class Remembering(Policy):
    """Scores an attempt that was cut down to its chosen tokens as the whole one."""

    whole: ClassVar = {}

    def _find(self, rollouts):
        return [self.whole[r.problem_id, r.sample] for r in rollouts] if self.whole else rollouts

    def states(self, rollouts):
        return super().states(self._find(rollouts))

    def hidden(self, trunk, rollouts):
        return super().hidden(trunk, self._find(rollouts))

    def distributions(self, rollouts, sampling):
        return super().distributions(self._find(rollouts), sampling)


def cut_down(groups):
    """Only what the policy chose."""

    def of(rollout):
        chosen = [t for t, m in enumerate(rollout.mask) if m]
        pick = {name: tuple(getattr(rollout, name)[t] for t in chosen) for name in ("response", "mask", "logp")}
        return replace(rollout, **pick)

    return [replace(g, rollouts=tuple(map(of, g.rollouts))) for g in groups]


def kept(recipe, groups):
    keep = getattr(recipe.sample, "keep", None)
    return [g for g in map(keep, groups) if g is not None] if keep else groups


def at_chosen(value_NT, mask_NT):
    return None if value_NT is None else value_NT[mask_NT]


def look(recipe, groups, micro_batch):
    """What a step makes of the groups: constants, gradients and weights, and what the journal says of it."""
    subject = learner(recipe, micro_batch=micro_batch, lr=1e-3)
    batch = subject.prepare(kept(recipe, groups))
    (minibatch,) = passes(batch, recipe.patch(reuse=Reuse()), HERE)
    minibatch = subject.learner.marked(Objective(recipe), minibatch)
    subject.gradient(Objective(recipe), minibatch)
    found = gradients(subject)
    if subject.critic is not None:
        found |= {f"critic {n}": m.grad.clone() for n, m in subject.critic.optimizer.masters.items()}
    outcomes = [recipe.update(subject, Objective(recipe), m) for m in passes(batch, recipe, HERE)]
    after = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    names = ("advantage_NT", "return_NT", "reward_NT", "old_logp_NT", "reference_logp_NT", "value_NT", "weight_NT")
    constants = {n: at_chosen(getattr(minibatch, n), minibatch.mask_NT) for n in names}
    constants |= {f"mark {slot}": at_chosen(mark, minibatch.mask_NT) for slot, mark in minibatch.marks.items()}
    rows = of_updates(batch, outcomes) | of_batch(batch, groups, recipe, outcomes) | of_correction(outcomes)
    return constants, found, after, rows


@pytest.fixture
def remembering(monkeypatch):
    """A way to make every tiny policy one that remembers these groups, and does not pack."""

    def begin(groups):
        monkeypatch.setattr("upslope.model.admission.admit", lambda model: False)

        def made(seed=0, dtype=torch.float64, **changes):
            found = Remembering(tiny.model(seed, dtype, **changes), tiny.TOKENIZER)
            found.whole = {(r.problem_id, r.sample): r for g in groups for r in g.rollouts}
            return found

        monkeypatch.setattr(tiny, "policy", made)

    return begin


@pytest.fixture(autouse=True)
def by_ordinal(monkeypatch):
    """Clip-Cov's lots go by a token's place in its attempt: here by its place among the chosen."""

    def lot(batch, row, column):
        r = batch.rollouts[row]
        return f"{r.problem_id} {r.sample} {sum(r.mask[:column]) * 7 % 10}"

    monkeypatch.setattr("upslope.algo.choosing_tokens.lot", lot)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_as_if_only_the_chosen_tokens_were_there(name, remembering):
    recipe, groups = RECIPES[name], holed(random_groups(4, 3))
    constants, found, after, row = look(recipe, groups, 2)
    remembering(groups)
    plain, expected, then, expected_row = look(recipe, cut_down(groups), 1)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3
    assert largest_gap(found, expected) < 1e-10
    assert largest_gap(after, then) < 1e-10
    for key, value in plain.items():
        assert (value is None) is (constants[key] is None), key
        if value is not None:
            torch.testing.assert_close(constants[key], value, rtol=0, atol=1e-10)
    assert row == pytest.approx(expected_row, abs=1e-9)


def test_the_holes_are_where_they_can_hurt():
    rollouts = [r for g in holed(random_groups(4, 3)) for r in g.rollouts]
    ends = policy().end_ids
    assert sum(not r.mask[0] for r in rollouts) >= 2, "none at first"
    assert sum(not r.mask[-1] for r in rollouts) >= 2, "none at last"
    assert any(r.mask[0] and r.mask[-1] and not all(r.mask) for r in rollouts), "none in the middle alone"
    assert any(t in ends for r in rollouts for t, m in zip(r.response[:-1], r.mask[:-1], strict=True) if not m)
    assert any(all(r.mask) for r in rollouts)


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_world_says_first_is_as_good_as_a_longer_prompt(name):
    """(prompt, its words and the policy's) and (prompt and its words, the policy's): one gradient."""
    recipe, groups = RECIPES[name], random_groups(4, 3)
    said = (9, 60, 5)

    def spoken(r):
        mask = (False,) * len(said) + r.mask
        return replace(r, response=said + r.response, mask=mask, logp=(0.0,) * len(said) + r.logp)

    def prompted(r):
        return replace(r, prompt=r.prompt + said)

    first, longer = (
        look(recipe, [replace(g, rollouts=tuple(map(change, g.rollouts))) for g in groups], 2)
        for change in (spoken, prompted)
    )
    assert largest_gap(first[1], longer[1]) < 1e-10
    assert largest_gap(first[2], longer[2]) < 1e-10


def unmasked_gae(reward_NT, value_NT, mask_NT, gamma, lam):
    """As if every place were a chosen token."""
    return generalised_advantage(reward_NT, value_NT, torch.ones_like(mask_NT), gamma, lam)


def at_the_end(reward_N, mask_NT):
    """The outcome in the last column, whoever wrote it."""
    return torch.nn.functional.pad(reward_N[:, None], (mask_NT.shape[1] - 1, 0))


def whole_lengths(batch):
    """As if the policy had written all."""
    return torch.tensor([float(len(r.response)) for r in batch.rollouts]).double()


@pytest.mark.parametrize(
    "defect",
    [
        ("upslope.algo.aggregate.lengths", whole_lengths),
        ("upslope.algo.advantage.generalised_advantage", unmasked_gae),
        ("upslope.learn.prepare.outcome_at_last", at_the_end),
    ],
    ids=["lengths", "advantage", "outcome"],
)
def test_a_defect_is_seen(defect, remembering, monkeypatch):
    recipe, groups = RECIPES["critic on a copy"].patch(aggregate=RECIPES["grpo"].aggregate), holed(random_groups(4, 3))
    with monkeypatch.context() as planted:
        planted.setattr(*defect)
        found = look(recipe, groups, 2)[1]
    remembering(groups)
    assert largest_gap(found, look(recipe, cut_down(groups), 1)[1]) > 1e-6
