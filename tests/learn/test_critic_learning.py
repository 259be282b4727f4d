"""The critic at work: what moves when, what its values are of, and that it learns."""

from dataclasses import replace

import pytest
import torch
from tiny import gradients, group, largest_gap, learner, policy, random_groups

from upslope.algo.advantage import GAE
from upslope.algo.critic import OwnCopy, SharedTrunk
from upslope.algo.family import PPO
from upslope.algo.objective import Objective
from upslope.algo.regulariser import K3, no_penalty
from upslope.algo.returns import discounted
from upslope.algo.reuse import Reuse
from upslope.algo.update import gradient_step
from upslope.learn.prepare import passes, weigh
from upslope.model.policy import Policy
from upslope.model.value import value_model
from upslope.rollout.address import Address

HERE = Address(0, "reuse")
KINDS = {"own copy": OwnCopy, "shared trunk": SharedTrunk}
PLAIN = PPO.patch(regulariser=no_penalty, reuse=Reuse())


def of_kind(kind, recipe=PLAIN, **fields):
    return recipe.patch(critic=KINDS[kind](**fields))


def beginner(recipe, **options):
    """A learner whose critic has its warm-up before it."""
    subject = learner(recipe, **options)
    subject.critic.optimizer.num_done = 0
    return subject


def weights(optimizer):
    return {n: m.detach().clone() for n, m in optimizer.masters.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def all_moved(a, b):
    return not any(torch.equal(a[n], b[n]) for n in a)


def update(subject, groups=None):
    """One turn: prepare, and every update of it. Returns the last one's statistics."""
    batch = subject.prepare(random_groups(3, 3) if groups is None else groups)
    for minibatch in passes(batch, subject.recipe, HERE):
        stats = subject.recipe.update(subject, subject.objective, minibatch).stats
    return stats


# -- warm-up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", [PLAIN, PLAIN.patch(regulariser=K3(0.5))], ids=["no penalty", "penalty in the loss"])
def test_the_warm_up_moves_the_critic_alone_and_then_both_move(kind, recipe):
    """A trunk that is shared stays bit for bit: the head reads it, and does not pull at it."""
    subject = beginner(of_kind(kind, recipe, warmup=2))
    start = weights(subject.optimizer)
    for done in range(2):
        before = weights(subject.critic.optimizer)
        assert subject.scorer.warming
        stats = update(subject)
        assert same(weights(subject.optimizer), start)
        assert not same(weights(subject.critic.optimizer), before)
        assert (stats["grad_norm"], stats["lr"]) == (0, 0)
        assert stats["value_grad_norm"] > 0
        assert (subject.critic.optimizer.num_done, subject.optimizer.num_done) == (done + 1, 0)
    assert not subject.scorer.warming
    before = weights(subject.critic.optimizer)
    stats = update(subject)
    assert all_moved(weights(subject.optimizer), start)
    assert not same(weights(subject.critic.optimizer), before)
    assert stats["grad_norm"] > 0
    assert (subject.critic.optimizer.num_done, subject.optimizer.num_done) == (3, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_warms_up_the_policy_has_no_gradient_at_all(kind):
    subject = beginner(of_kind(kind, warmup=1))
    (minibatch,) = passes(subject.prepare(random_groups(3, 3)), subject.recipe, HERE)
    outcome = subject.gradient(subject.objective, minibatch)
    assert gradients(subject) == {}
    assert all(m.grad is not None for m in subject.critic.optimizer.masters.values())
    assert outcome.stats["value_loss"] > 0
    assert outcome.stats["loss"] != 0, "what the policy's loss is, is told all the same"


def test_without_a_warm_up_both_move_from_the_first_update():
    subject = beginner(of_kind("own copy", warmup=0))
    before, critic_before = weights(subject.optimizer), weights(subject.critic.optimizer)
    update(subject)
    assert all_moved(weights(subject.optimizer), before)
    assert all_moved(weights(subject.critic.optimizer), critic_before)


def test_every_update_of_a_turn_counts_towards_the_warm_up():
    subject = beginner(of_kind("own copy", warmup=3).patch(reuse=Reuse(epochs=4)))
    before = weights(subject.optimizer)
    update(subject)
    assert not subject.scorer.warming
    assert subject.optimizer.num_done == 1
    assert not same(weights(subject.optimizer), before)


# -- who pulls at what ----------------------------------------------------------------------------------------------


def policy_gradient(recipe, *, advantage_NT=None):
    subject = learner(recipe)
    batch = subject.prepare(random_groups(3, 3))
    batch = replace(batch, advantage_NT=batch.advantage_NT if advantage_NT is None else advantage_NT)
    (minibatch,) = passes(batch, recipe, HERE)
    subject.gradient(Objective(recipe), minibatch)
    return gradients(subject), batch


def test_an_own_copy_leaves_the_policys_gradient_alone():
    """The same advantages from another critic give the same gradient, though the critics' losses differ."""
    one, batch = policy_gradient(of_kind("own copy", clip=0.0))
    other, _ = policy_gradient(of_kind("own copy", clip=0.1), advantage_NT=batch.advantage_NT)
    assert largest_gap(one, other) == 0


def test_a_shared_trunk_pulls_at_the_policy_in_proportion_to_its_weight():
    """Gradient of the policy's loss plus weight times that of the critic's."""
    kinds = [of_kind("shared trunk", weight=w, clip=0.0) for w in (0.0, 0.5, 1.0)]
    none, half, full = (policy_gradient(recipe)[0] for recipe in kinds)
    body = [n for n in none if n != "lm_head.weight"]
    assert max(float((full[n] - none[n]).abs().max()) for n in body) > 1e-3
    for name in none:
        torch.testing.assert_close(half[name] - none[name], (full[name] - none[name]) / 2, rtol=0, atol=1e-12)
    assert torch.equal(full["lm_head.weight"], none["lm_head.weight"]), "values are not read from logits"


def test_an_own_copy_shares_no_storage_with_the_policy():
    subject = learner(of_kind("own copy"))
    mine = {p.data_ptr() for p in subject.policy.model.parameters()}
    assert not mine & {p.data_ptr() for p in subject.critic.model.parameters()}
    names = set(subject.critic.optimizer.masters)
    assert {"head.weight", "head.bias"} < names


def test_a_shared_trunk_has_a_head_of_its_own_and_nothing_else():
    subject = learner(of_kind("shared trunk"))
    assert set(subject.critic.optimizer.masters) == {"head.weight", "head.bias"}


def test_its_learning_rate_is_a_multiple_of_the_policys():
    subject = learner(of_kind("own copy", rate=7.0), lr=1e-3)
    assert subject.critic.optimizer.settings.lr == pytest.approx(7e-3)
    assert subject.optimizer.settings.lr == 1e-3


# -- values ---------------------------------------------------------------------------------------------------------


def with_holes():
    """Ragged rows, of which one has tokens in the middle that the policy did not choose."""
    made = group("p", [3, 4, 5], [[5, 6, 7, 8, 9], [10], [11, 12]], [1.0, 0.0, 1.0])
    holed = replace(made.rollouts[0], mask=(True, False, False, True, True))
    return [replace(made, rollouts=(holed, *made.rollouts[1:])), *random_groups(1, 2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [0, 1, 2])
def test_values_stand_at_chosen_tokens_and_are_zero_elsewhere(kind, micro_batch):
    subject = learner(of_kind(kind), micro_batch=micro_batch)
    batch = subject.prepare(with_holes())
    assert batch.value_NT[batch.mask_NT].abs().min() > 0
    assert not batch.value_NT[~batch.mask_NT].any()
    assert not batch.return_NT[~batch.mask_NT].any()
    assert not batch.advantage_NT[~batch.mask_NT].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_of_the_state_before_its_token(kind):
    """w . h + b at the position before it, h from a plain forward pass of one rollout; so the token itself, which the
    policy is still to choose, changes nothing."""
    subject = learner(of_kind(kind))
    groups = with_holes()
    batch = subject.prepare(groups)
    plain = policy().model  # the same seed; the policy's own would be the packed attention
    plain.set_attn_implementation("sdpa")
    head = subject.critic.model.head
    for row, rollout in enumerate(batch.rollouts):
        ids = torch.tensor([[*rollout.prompt, *rollout.response]])
        with torch.no_grad():
            hidden = plain.model(input_ids=ids, use_cache=False).last_hidden_state[0]
            value_T = head(hidden[len(rollout.prompt) - 1 : -1])[:, 0]
        chosen = torch.tensor(rollout.mask)
        got = batch.value_NT[row, : len(chosen)]
        torch.testing.assert_close(got[chosen], value_T[chosen], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_a_model_that_cannot_be_packed_are_the_same(kind, monkeypatch):
    """The ordinary padded call, for architectures that the packed attention does not admit."""
    packed = learner(of_kind(kind)).prepare(with_holes())
    monkeypatch.setattr("upslope.model.admission.admit", lambda model: False)
    plain = learner(of_kind(kind), of=Policy(policy().model, policy().tokenizer)).prepare(with_holes())
    torch.testing.assert_close(plain.value_NT, packed.value_NT, rtol=0, atol=1e-10)


def test_a_critic_that_knows_nothing_says_zero_everywhere():
    head = value_model(policy().model, own_copy=False).head
    assert not head.weight.any()
    assert not head.bias.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_micro_batches_change_neither_the_critics_gradient_nor_its_loss(kind, micro_batch):
    """Pitfalls 1 to 3, for the second loss: its denominator is fixed before the split."""

    def one(size):
        subject = learner(of_kind(kind), micro_batch=size)
        batch = subject.prepare(with_holes())
        value_NT = batch.value_NT + 0.1 * batch.mask_NT  # so that the clip has something to say
        minibatch = weigh(replace(batch, value_NT=value_NT), subject.recipe)
        stats = subject.gradient(subject.objective, minibatch).stats
        found = {n: m.grad.clone() for n, m in subject.critic.optimizer.masters.items()}
        return found | gradients(subject), stats["value_loss"]

    (whole, loss), (parts, parts_loss) = one(100), one(micro_batch)
    assert largest_gap(parts, whole) < 1e-12
    assert parts_loss == pytest.approx(loss, abs=1e-12)
    assert loss > 0


def test_rows_without_advantage_teach_the_critic():
    """Equal rewards and a critic that is right on average are no reason to skip a row."""
    subject = learner(of_kind("own copy"))
    batch = subject.prepare(random_groups(2, 2))
    (minibatch,) = passes(replace(batch, advantage_NT=batch.advantage_NT * 0), subject.recipe, HERE)
    outcome = subject.gradient(subject.objective, minibatch)
    assert outcome.minibatch.num_rollouts == 4
    assert subject.critic.optimizer.norm() > 0


# -- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_before", [1, 3])
def test_a_saved_critic_goes_on_bit_for_bit(kind, num_before):
    """Weights, moments and the place in the warm-up of two updates."""
    recipe = of_kind(kind, warmup=2)
    subject = beginner(recipe)
    for _ in range(num_before):
        update(subject)
    state = {n: t.detach().clone() for n, t in subject.critic.state().items()}
    policy_state = {n: t.clone() for n, t in subject.optimizer.state().items()}
    policy_weights = {n: t.clone() for n, t in subject.optimizer.full_precision().items()}

    resumed = beginner(recipe)
    update(resumed, random_groups(2, 2, seed=9))  # so that everything that is to be replaced is something else
    resumed.critic.load(state, subject.critic.optimizer.num_done)
    resumed.optimizer.set_weights(policy_weights)
    resumed.optimizer.load(policy_state, subject.optimizer.num_done)
    assert resumed.scorer.warming == subject.scorer.warming == (num_before < 2)
    assert same(weights(resumed.critic.optimizer), weights(subject.critic.optimizer))
    for _ in range(3):
        assert update(resumed) == update(subject)
        assert same(weights(resumed.critic.optimizer), weights(subject.critic.optimizer))
        assert same(weights(resumed.optimizer), weights(subject.optimizer))


def test_the_state_is_flat_and_of_tensors_alone():
    subject = beginner(of_kind("shared trunk"))
    update(subject)
    names = {"weights", "optimizer/step", "optimizer/exp_avg", "optimizer/exp_avg_sq"}
    assert set(subject.critic.state()) == {f"{a}/head.{b}" for a in names for b in ("weight", "bias")}
    assert all(isinstance(t, torch.Tensor) for t in subject.critic.state().values())


# -- learning -------------------------------------------------------------------------------------------------------


def explained_variance(subject, batch):
    """1 - mean squared error over the variance of the targets, over chosen tokens; 0 for a constant at their mean."""
    with torch.no_grad():
        value_NT = subject.score(batch).value_NT
    error = (batch.return_NT - value_NT)[batch.mask_NT].square().mean()
    return float(1 - error / batch.return_NT[batch.mask_NT].var(correction=0))


@pytest.mark.parametrize("kind", KINDS)
def test_learning_raises_the_explained_variance(kind):
    """Targets are the plain outcomes (lambda = 1), different from row to row; the policy stays, as in a warm-up. The
    own copy can tell every state apart; the head on the frozen trunk has 32 directions to do it with."""
    recipe = of_kind(kind, PLAIN.patch(advantage=GAE(lam=1.0, whiten=False)), clip=0.0, warmup=1000, rate=1.0)
    subject = beginner(recipe, lr=1e-2 if kind == "own copy" else 3e-2)
    batch = subject.prepare(random_groups(6, 2, longest=4))
    assert set(batch.return_NT[batch.mask_NT].round(decimals=9).tolist()) == {0.0, 1.0}
    before = explained_variance(subject, batch)
    assert before < 0.1
    for _ in range(60):
        gradient_step(subject, Objective(recipe), weigh(batch, recipe))
    assert explained_variance(subject, batch) > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_moved_by_the_clip_towards_their_targets_are_left_alone(kind):
    """Old values that lie 0.3 further from the target than the present ones: no gradient with a clip of 0.2, in critic
    and trunk; the full one with a clip of 0.4."""

    def norm(clip):
        subject = learner(of_kind(kind, PLAIN.patch(advantage=GAE(whiten=False)), clip=clip))
        batch = subject.prepare(random_groups(3, 2))
        away_NT = 0.3 * torch.sign(batch.value_NT - batch.return_NT)
        moved = replace(batch, value_NT=batch.value_NT + away_NT, advantage_NT=torch.zeros_like(batch.advantage_NT))
        subject.gradient(subject.objective, weigh(moved, subject.recipe))
        return float(subject.critic.optimizer.norm()) + float(subject.optimizer.norm())

    assert norm(0.2) == 0
    assert norm(0.4) > 0.01
    assert norm(0.4) == pytest.approx(norm(0.0), rel=1e-12)


def test_an_advantage_of_ones_own_that_needs_values_has_the_reward_to_go_for_a_target():
    """Like any other: what is predicted is the critic's business."""

    class Surprise:
        needs = frozenset({"values"})

        def __call__(self, batch):
            return (batch.reward_N[:, None] - batch.value_NT) * batch.mask_NT

    recipe = PPO.patch(advantage=Surprise(), regulariser=no_penalty)
    batch = learner(recipe).prepare(random_groups(3, 3))
    assert torch.equal(batch.return_NT, batch.reward_N[:, None] * batch.mask_NT)


@pytest.mark.parametrize("lam", [0.0, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_targets_lambda_is_the_critics_and_gamma_the_advantages(kind, lam):
    """GAE plus V with the critic's lambda, whatever lambda the advantages have; at 1 the reward to go and no value."""
    judged = []
    for other in (0.0, 0.95):
        recipe = of_kind(kind, PPO.patch(advantage=GAE(gamma=0.9, lam=other)), lam=lam)
        batch = learner(recipe).prepare(random_groups(3, 3))
        own = GAE(gamma=0.9, lam=lam).estimate(batch) + batch.value_NT
        torch.testing.assert_close(batch.return_NT, own, rtol=0, atol=1e-12)
        judged.append(batch)
    assert torch.equal(judged[0].return_NT, judged[1].return_NT)
    assert not torch.equal(judged[0].advantage_NT, judged[1].advantage_NT)
    if lam == 1:
        expected_NT = discounted(batch.reward_NT, batch.mask_NT, 0.9)
        assert torch.equal(batch.return_NT, expected_NT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_that_knows_nothing_is_told_the_outcome_at_the_first_of_many_tokens(kind):
    """V = 0 and 128 tokens: with the advantage's lambda of 0.95 the first target of a right attempt would be 0.95^127 =
    0.0015, and the critic would learn that it was right to know nothing."""
    recipe = of_kind(kind)
    made = group("p", [3], [[5] * 128, [6] * 128], [1.0, 0.0])
    subject = beginner(recipe)
    with torch.no_grad():
        subject.critic.model.head.weight.zero_()
        subject.critic.model.head.bias.zero_()
    batch = subject.prepare([made])
    assert not batch.value_NT.any()
    assert batch.return_NT[0].tolist() == [1.0] * 128
    assert not batch.return_NT[1].any()
