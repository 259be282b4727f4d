"""Advantages by hand."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import by_row, gradients, group, largest_gap, learner

from upslope.algo.advantage import (
    GAE,
    BatchZScore,
    ConstantBaseline,
    GroupZScore,
    group_mean,
    leave_one_out,
    ones,
    returns,
    whitened,
)
from upslope.algo.aggregate import sequence_mean, sequence_sum, token_mean
from upslope.algo.critic import OwnCopy, SharedTrunk
from upslope.algo.family import DAPO, GRPO, PPO, REINFORCE
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.regulariser import K1, ExactKL
from upslope.algo.reuse import Reuse
from upslope.algo.sample import Attempts, mixed
from upslope.learn.prepare import judge, to_batch, weigh
from upslope.types import Group

CPU = torch.device("cpu")


def batch(*rewards_by_group, lengths=None):
    groups = [
        group(f"p{i}", [1], [[5] * (lengths[i][j] if lengths else 2) for j in range(len(rewards))], rewards)
        for i, rewards in enumerate(rewards_by_group)
    ]
    return to_batch(groups, CPU, torch.float64)


def first(advantage_NT):
    return advantage_NT[:, 0].tolist()


def test_ones_and_returns():
    b = batch([1.0, 0.0], [0.5, -2.0])
    assert first(ones(b)) == [1, 1, 1, 1]
    assert first(returns(b)) == [1, 0, 0.5, -2]


def test_group_mean_subtracts_the_own_groups_mean():
    b = batch([1.0, 0.0, 0.0, 0.0], [1.0, 1.0], [3.0])
    assert first(group_mean(b)) == [0.75, -0.25, -0.25, -0.25, 0, 0, 0]


def test_z_score_divides_by_the_sample_deviation():
    b = batch([1.0, 0.0, 0.0, 0.0])
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)  # = 0.5
    assert std == 0.5
    assert first(GroupZScore(eps=0.0)(b)) == pytest.approx([1.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("reward", [0.1, 0.2, 0.3, 0.7])
@pytest.mark.parametrize("size", [1, 3, 7, 8])
def test_a_group_of_equal_rewards_gets_exactly_zero_in_float32_too(reward, size):
    """Rounding leaves 1e-8 otherwise, which an optimizer without a sense of scale would follow."""
    equal = to_batch([group("p", [1], [[5]] * size, [reward] * size)], CPU, torch.float32)
    assert not group_mean(equal).any()
    assert not GroupZScore()(equal).any()


def test_a_reward_of_zero_is_a_value():
    """Pitfall 16: 0.0 read as missing would leave the mean at 1 and the other advantage at 0."""
    assert first(group_mean(batch([1.0, 0.0]))) == [0.5, -0.5]


def test_advantages_are_zero_outside_the_mask():
    b = batch([1.0, 0.0], lengths=[[1, 3]])
    assert group_mean(b).tolist() == [[0.5, 0, 0], [-0.5, -0.5, -0.5]]


def test_groups_do_not_mix_whatever_their_order():
    """Pitfall 13: group numbers, not positions, say who is whose sibling."""
    b = batch([1.0, 0.0], [1.0, 1.0])
    shuffled = b.take([2, 1, 3, 0])
    assert first(group_mean(shuffled)) == [0, -0.5, 0, 0.5]


# -- against a constant, against the others -------------------------------------------------------------------------


def test_a_constant_baseline_is_subtracted_from_every_token():
    b = batch([1.0, 0.0], lengths=[[2, 1]])
    assert ConstantBaseline(0.25)(b).tolist() == [[0.75, 0.75], [-0.25, 0]]


def test_leave_one_out_compares_with_the_others_alone():
    """1 - (0 + 0 + 3)/3 = 0; 0 - (1 + 0 + 3)/3 = -4/3; 3 - (1 + 0 + 0)/3 = 8/3. The second group: 1 - 0, 0 - 1."""
    b = batch([1.0, 0.0, 0.0, 3.0], [1.0, 0.0])
    assert first(leave_one_out(b)) == pytest.approx([0, -4 / 3, -4 / 3, 8 / 3, 1, -1])


def test_leave_one_out_is_g_over_g_minus_one_times_the_group_mean():
    b = batch([1.0, 0.25, 0.0], [2.0, 0.0])
    ratio = [3 / 2] * 3 + [2] * 2
    expected = [r * a for r, a in zip(ratio, first(group_mean(b)), strict=True)]
    assert first(leave_one_out(b)) == pytest.approx(expected)


def test_an_attempt_without_siblings_is_compared_with_nobody():
    b = batch([1.0], [0.0, 1.0])
    for advantage in (group_mean, leave_one_out, GroupZScore(), GroupZScore(std="population")):
        assert first(advantage(b))[0] == 0


def test_z_scores_by_sample_and_by_population():
    """Rewards 1, 0, 0, 0: squares 9/16 + 3/16 = 3/4. Sample: 3/4 / 3 = 1/4, deviation 1/2. Population: 3/4 / 4 = 3/16,
    deviation sqrt(3)/4."""
    b = batch([1.0, 0.0, 0.0, 0.0])
    assert first(GroupZScore(0.0, "sample")(b)) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    root = math.sqrt(3)
    assert first(GroupZScore(0.0, "population")(b)) == pytest.approx([root, -root / 3, -root / 3, -root / 3])


def test_eps_is_added_to_the_deviation():
    assert first(GroupZScore(0.5)(batch([1.0, 0.0, 0.0, 0.0]))) == pytest.approx([0.75, -0.25, -0.25, -0.25])


# -- over the whole batch -------------------------------------------------------------------------------------------


def judged(b, advantage):
    return judge(b, REINFORCE.patch(advantage=advantage)).advantage_NT


def test_a_z_score_over_the_batch_counts_tokens_not_rollouts():
    """Outcomes 1 (three tokens) and 0 (one token): every token's reward to go is the outcome, so mean 3/4, variance
    3/16, deviation sqrt(3)/4."""
    b = batch([1.0, 0.0], lengths=[[3, 1]])
    deviation = math.sqrt(3) / 4
    up, down = 0.25 / deviation, -0.75 / deviation
    got = judged(b, BatchZScore(eps=0.0))
    torch.testing.assert_close(got, torch.tensor([[up] * 3, [down, 0, 0]], dtype=torch.float64))


def test_a_z_score_over_the_batch_may_centre_by_group_first():
    """Groups (1, 0) and (5, 3), one token each: centred 1/2, -1/2, 1, -1. Mean 0, variance (1/4 + 1/4 + 1 + 1) / 4 =
    5/8."""
    b = batch([1.0, 0.0], [5.0, 3.0], lengths=[[1, 1], [1, 1]])
    deviation = math.sqrt(5 / 8)
    expected = [x / deviation for x in (0.5, -0.5, 1, -1)]
    assert first(judged(b, BatchZScore(centre="group", eps=0.0))) == pytest.approx(expected)
    # Without: 1, 0, 5, 3 have mean 9/4.
    assert judged(b, BatchZScore(eps=0.0))[1, 0] < judged(b, BatchZScore(eps=0.0))[0, 0] < 0


def test_a_z_score_over_the_batch_is_of_the_reward_to_go_token_by_token():
    """A penalty paid in the reward makes tokens differ: costs 0.2 and 0.1 of one rollout with outcome 1 leave rewards
    -0.2 and 0.9, to go 0.7 and 0.9: mean 0.8, deviation 0.1."""
    b = to_batch([group("p", [1], [[5, 6]], [1.0], [[-1.0, -1.0]])], CPU, torch.float64)
    b = replace(b, old_logp_NT=b.sampler_logp_NT, reference_logp_NT=torch.tensor([[-1.2, -1.1]], dtype=torch.float64))
    recipe = REINFORCE.patch(advantage=BatchZScore(eps=0.0), regulariser=K1(1.0))
    torch.testing.assert_close(judge(b, recipe).advantage_NT, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))


def test_whitening_ignores_padding():
    """Inside: 1, 3 and 5: mean 3, variance 8/3. Junk outside changes nothing and comes out as zero."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    scale = math.sqrt(8 / 3)
    expected = torch.tensor([[-2 / scale, 0, 0], [2 / scale, 0, 0]], dtype=torch.float64)
    for junk in (0.0, 1e6, math.nan):
        value_NT = torch.tensor([[1, 3, junk], [5, junk, junk]], dtype=torch.float64)
        torch.testing.assert_close(whitened(value_NT, mask, eps=0.0), expected)


def test_whitening_what_is_equal_or_nothing_gives_no_numbers_that_are_none():
    mask = torch.tensor([[1, 1], [1, 0]], dtype=torch.bool)
    assert whitened(torch.full((2, 2), 7.0), mask).tolist() == [[0, 0], [0, 0]]
    assert not whitened(torch.full((2, 2), 7.0), torch.zeros_like(mask)).isnan().any()


def test_gae_reads_values_and_whitens_over_tokens():
    """One token a row: A = R - V = 1 - 0.25 and 0 - 0.75; whitened these are 1 and -1. Targets are R."""
    b = replace(batch([1.0, 0.0], lengths=[[1, 1]]), value_NT=torch.tensor([[0.25], [0.75]], dtype=torch.float64))
    assert first(judged(b, GAE(whiten=False))) == [0.75, -0.75]
    assert first(judged(b, GAE())) == pytest.approx([1, -1])
    assert judge(b, REINFORCE.patch(advantage=GAE())).return_NT[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(("gamma", "lam"), [(-0.1, 0.9), (1.1, 0.9), (1.0, -0.1), (1.0, 1.1)])
def test_gae_refuses_a_factor_that_is_none(gamma, lam):
    with pytest.raises(ValueError, match="0 <= gamma <= 1"):
        GAE(gamma, lam)


# -- empty attempts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [group_mean, leave_one_out, GroupZScore(), returns, ConstantBaseline()])
def test_an_empty_attempt_counts_with_its_reward_and_shifts_nobody(advantage):
    """Pitfall 18: the middle one of three says nothing. Its siblings' advantages are those they have when it says one
    token, and stand in their own rows."""
    rewards = [[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]
    empty = advantage(batch(*rewards, lengths=[[2, 0, 3], [1, 2, 1]]))
    spoken = advantage(batch(*rewards, lengths=[[2, 1, 3], [1, 2, 1]]))
    assert first(empty)[1] == 0
    keep = [0, 2, 3, 4, 5]
    assert torch.equal(empty[keep], spoken[keep])
    assert empty[0, 0] != empty[2, 0]


def test_the_baseline_with_an_empty_attempt_by_hand():
    """Rewards 1, 0 (empty), 0: mean 1/3, not 1/2."""
    got = group_mean(batch([1.0, 0.0, 0.0], lengths=[[1, 0, 2]]))
    torch.testing.assert_close(got, torch.tensor([[2 / 3, 0], [0, 0], [-1 / 3, -1 / 3]], dtype=torch.float64))


def test_an_empty_attempt_leaves_values_and_returns_in_their_rows():
    b = batch([1.0, 1.0, 0.0], lengths=[[1, 0, 2]])
    b = replace(b, value_NT=torch.tensor([[0.5, 0], [0, 0], [0.25, 0.75]], dtype=torch.float64))
    recipe = REINFORCE.patch(advantage=GAE(lam=0.0, whiten=False))
    got = judge(b, recipe.patch(critic=OwnCopy(lam=0.0)))
    assert got.advantage_NT.tolist() == [[0.5, 0], [0, 0], [0.5, -0.75]]
    assert got.return_NT.tolist() == [[1, 0], [0, 0], [0.75, 0]]
    assert judge(b, recipe).return_NT.tolist() == [[1, 0], [0, 0], [0, 0]]  # lambda 1 for the targets: the outcome


SCORED = [
    GRPO.patch(reuse=Reuse(epochs=2)),
    PPO,
    PPO.patch(critic=SharedTrunk()),
    GRPO.patch(regulariser=ExactKL(0.1, place="reward"), reuse=Reuse(epochs=2)),
]


@pytest.mark.parametrize("recipe", SCORED, ids=["grpo", "ppo", "shared trunk", "exact KL in the reward"])
@pytest.mark.parametrize("micro_batch", [0, 1, 2])
def test_what_is_scored_before_the_update_stays_in_its_row_beside_an_empty_attempt(recipe, micro_batch):
    """Old and reference log-probs, values and gradients; also where the empty attempt is a micro-batch of its own."""
    prompt, said, rewards = [3, 4], [[5, 6], [7], [], [8, 9, 10]], [1.0, 0.0, 0.0, 0.5]
    subject = learner(recipe, micro_batch=micro_batch)
    b = subject.prepare([group("p", prompt, said, rewards)])
    alone = subject.prepare([group("p", prompt, [s for s in said if s], [1.0, 0.0, 0.5])])
    for name in ("old_logp_NT", "reference_logp_NT", "reference_kl_NT", "value_NT"):
        if getattr(alone, name) is not None:
            torch.testing.assert_close(getattr(b, name)[[0, 1, 3]], getattr(alone, name), rtol=0, atol=1e-12)
            assert getattr(alone, name)[alone.mask_NT].all()
            assert not getattr(b, name)[~b.mask_NT].any()
    b = weigh(b, recipe)
    subject.gradient(Objective(recipe), b)
    whole = gradients(subject)
    subject.gradient(Objective(recipe), b.take([0, 1, 3]))
    assert largest_gap(gradients(subject), whole) < 1e-12
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3


@pytest.mark.parametrize("recipe", SCORED, ids=["grpo", "ppo", "shared trunk", "exact KL in the reward"])
def test_a_step_of_empty_attempts_alone_is_no_error(recipe):
    subject = learner(recipe)
    b = weigh(subject.prepare([group("p", [3], [[], []], [1.0, 0.0])]), recipe)
    assert subject.gradient(Objective(recipe), b).stats["loss"] == 0


# -- truncated attempts ---------------------------------------------------------------------------------------------


def with_truncated(recipe, row=2):
    """Group [1, 1, 0] with lengths 2, 1 and 4, of which one attempt was cut by the length limit."""
    made = group("p", [1], [[5, 6], [7], [8, 9, 10, 11]], [1.0, 1.0, 0.0])
    cut = tuple(replace(r, ended="length" if i == row else "stop") for i, r in enumerate(made.rollouts))
    return judge(to_batch([Group(made.problem, cut)], CPU, torch.float64), recipe)


DROPS = Attempts(drop_truncated=True)


def test_a_truncated_attempt_is_left_out_after_its_siblings_were_compared_with_it():
    """Pitfall 19: without the wrong attempt the group would be all right, and teach nothing. 1 - 2/3 = 1/3."""
    b = with_truncated(REINFORCE.patch(sample=DROPS, advantage=group_mean))
    assert [r.sample for r in b.rollouts] == [0, 1]
    assert first(b.advantage_NT) == pytest.approx([1 / 3, 1 / 3])
    assert b.mask_NT.sum(dim=1).tolist() == [2, 1]


def test_the_filter_for_mixed_groups_sees_the_truncated_attempt():
    made = group("p", [1], [[5], [7], [8]], [1.0, 1.0, 0.0])
    cut = Group(made.problem, (*made.rollouts[:2], replace(made.rollouts[2], ended="length")))
    assert mixed(cut) is cut


def test_dapo_drops_truncated_attempts_and_grpo_keeps_them():
    assert with_truncated(DAPO).num_rollouts == 2
    assert with_truncated(GRPO).num_rollouts == 3


@pytest.mark.parametrize(
    ("aggregate", "weights"),
    [
        (sequence_sum, [1 / 2, 1 / 2]),  # 1/N with N = 2, not 3
        (sequence_mean, [1 / 4, 1 / 2]),  # 1/(N T): 1/(2*2), 1/(2*1)
        (token_mean, [1 / 3, 1 / 3]),  # 3 tokens left of 7
    ],
)
def test_a_truncated_attempt_is_in_neither_numerator_nor_denominator(aggregate, weights):
    """Pitfall 5. The loss is that of the two siblings alone, with the advantage 1/3 each and log-probs of -1:
    -(sum_n w_n T_n / 3 * -1)."""
    recipe = REINFORCE.patch(sample=DROPS, advantage=group_mean, aggregate=aggregate)
    b = weigh(with_truncated(recipe), recipe)
    assert by_row(b.weight_NT, b.mask_NT) == pytest.approx(weights)
    losses, _ = Objective(recipe)(Scored(b.sampler_logp_NT, torch.zeros_like(b.sampler_logp_NT)), b)
    assert losses.policy.item() == pytest.approx((weights[0] * 2 + weights[1]) / 3)


def test_a_group_that_is_truncated_throughout_leaves_nothing_and_no_error():
    recipe = DAPO
    made = group("p", [1], [[5], [7]], [1.0, 0.0])
    cut = Group(made.problem, tuple(replace(r, ended="length") for r in made.rollouts))
    b = weigh(judge(to_batch([cut], CPU, torch.float64), recipe), recipe)
    assert b.num_rollouts == 0
    assert b.weight_NT.shape[0] == 0
