"""Advantages by hand."""

import math

import pytest
import torch
from tiny import group

from upslope.algo.advantage import GroupZScore, group_mean, ones, returns
from upslope.train.prepare import to_batch

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
    mixed = b.take([2, 1, 3, 0])
    assert first(group_mean(mixed)) == [0, -0.5, 0, 0.5]
