"""Shaped rewards, by hand."""

from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.advantage import returns
from upslope.algo.family import REINFORCE
from upslope.algo.shape import SoftOverlong, identity
from upslope.train.prepare import judge, to_batch

CPU = torch.device("cpu")


def batch(lengths, limit, reward=1.0):
    made = group("p", [1], [[5] * length for length in lengths], [reward] * len(lengths))
    return to_batch([made], CPU, torch.float64, limit=limit)


def test_identity_changes_nothing():
    b = batch([1, 10], limit=10, reward=0.25)
    assert identity(b).tolist() == [0.25, 0.25]


def test_the_corners_of_soft_overlong():
    """L = 10, B = 4: free up to 6 tokens, then (6 - T) / 4, at 10 exactly 1."""
    b = batch([0, 1, 5, 6, 7, 8, 10], limit=10)
    assert SoftOverlong(0.4)(b).tolist() == pytest.approx([1, 1, 1, 1, 0.75, 0.5, 0])


def test_the_default_is_the_papers_fifth():
    """L = 20480, B = 4096: free up to 16384, half the cost at 18432."""
    b = batch([1, 2, 3], limit=20480)
    for length, expected in ((16384, 0.0), (18432, -0.5), (20480, -1.0)):
        long = replace(b, mask_NT=torch.ones(3, length, dtype=torch.bool), reward_N=torch.zeros(3))
        assert SoftOverlong()(long).tolist() == pytest.approx([expected] * 3)


def test_a_buffer_of_everything_punishes_every_token():
    assert SoftOverlong(1.0)(batch([0, 1, 10], limit=10)).tolist() == pytest.approx([1, 0.9, 0])


def test_the_punishment_is_never_more_than_one():
    """Tokens that the policy chose may exceed the limit only where somebody else set it."""
    assert SoftOverlong(0.4)(batch([20], limit=10)).tolist() == [0]


def test_without_a_limit_nothing_is_too_long():
    assert SoftOverlong()(batch([1, 100], limit=0)).tolist() == [1, 1]


def test_only_chosen_tokens_count():
    """Ten tokens of which a tool wrote four."""
    b = batch([10], limit=10)
    mask_NT = b.mask_NT.clone()
    mask_NT[0, 2:6] = False
    assert SoftOverlong(0.4)(replace(b, mask_NT=mask_NT)).tolist() == [1]


def test_the_shaped_reward_is_what_is_compared():
    b = judge(batch([6, 8], limit=10), REINFORCE.patch(shape=SoftOverlong(0.4), advantage=returns))
    assert b.reward_N.tolist() == [1, 0.5]
    assert b.advantage_NT[:, 0].tolist() == [1, 0.5]
    assert b.reward_NT[1].tolist() == [0] * 7 + [0.5]


@pytest.mark.parametrize("buffer", [0.0, -0.1, 1.1])
def test_a_buffer_that_is_no_share_is_refused(buffer):
    with pytest.raises(ValueError, match="buffer"):
        SoftOverlong(buffer)
