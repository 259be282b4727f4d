"""Shaped rewards, by hand."""

from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.advantage import returns
from upslope.algo.family import CISPO, DAPO, REINFORCE
from upslope.algo.shape import SoftOverlong, identity
from upslope.learn.prepare import judge, to_batch

CPU = torch.device("cpu")


def batch(lengths, limit, reward=1.0):
    made = group("p", [1], [[5] * length for length in lengths], [reward] * len(lengths))
    return to_batch([made], CPU, torch.float64, limit=limit)


def outcome(shape, b):
    """What every attempt earns in all, as the shape has it."""
    return judge(b, REINFORCE.patch(shape=shape)).reward_N


def test_identity_changes_nothing():
    b = batch([1, 10], limit=10, reward=0.25)
    assert torch.equal(identity(b), b.reward_NT)
    assert outcome(identity, b).tolist() == [0.25, 0.25]


def test_the_corners_of_soft_overlong():
    """L = 10, B = 4: free up to 6 tokens, then (6 - T) / 4, at 10 exactly 1. The paper's factor."""
    b = batch([0, 1, 5, 6, 7, 8, 10], limit=10)
    assert outcome(SoftOverlong(0.4, factor=1.0), b).tolist() == pytest.approx([1, 1, 1, 1, 0.75, 0.5, 0])


def test_the_default_is_the_papers_fifth():
    """L = 20480, B = 4096: free up to 16384, half the cost at 18432."""
    b = batch([1, 2, 3], limit=20480)
    for length, expected in ((16384, 0.0), (18432, -0.5), (20480, -1.0)):
        long = replace(b, mask_NT=torch.ones(3, length, dtype=torch.bool), reward_NT=torch.zeros(3, length))
        assert outcome(SoftOverlong(factor=1.0), long).tolist() == pytest.approx([expected] * 3)


def test_the_punishment_is_the_papers_share_of_what_right_and_wrong_are_apart():
    """Paper: 1 of the 2 between +1 and -1. Here: 0.5 of the 1 between 1 and 0. So the shaped rewards are the same but
    for units, R' = 2 R - 1, and with them every z-score; a right answer at the limit stands halfway between the two."""
    lengths = [5, 7, 8, 10]
    ours = outcome(SoftOverlong(0.4), batch(lengths, limit=10, reward=1.0))
    theirs = outcome(SoftOverlong(0.4, factor=1.0), batch(lengths, limit=10, reward=1.0))  # of +1
    torch.testing.assert_close(2 * ours - 1, theirs)
    assert ours.tolist() == pytest.approx([1, 0.875, 0.75, 0.5])
    assert outcome(SoftOverlong(0.4), batch([10], limit=10, reward=0.0)).tolist() == [-0.5]
    assert DAPO.shape == CISPO.shape == SoftOverlong(0.2, 0.5)


def test_a_buffer_of_everything_punishes_every_token():
    assert outcome(SoftOverlong(1.0, 1.0), batch([0, 1, 10], limit=10)).tolist() == pytest.approx([1, 0.9, 0])


def test_the_punishment_is_never_more_than_its_factor():
    """Tokens that the policy chose may exceed the limit only where somebody else set it."""
    assert outcome(SoftOverlong(0.4, factor=1.0), batch([20], limit=10)).tolist() == [0]
    assert outcome(SoftOverlong(0.4), batch([20], limit=10)).tolist() == [0.5]


def test_without_a_limit_nothing_is_too_long():
    assert outcome(SoftOverlong(), batch([1, 100], limit=0)).tolist() == [1, 1]


def test_only_chosen_tokens_count():
    """Ten tokens of which a tool wrote four."""
    b = batch([10], limit=10)
    mask_NT = b.mask_NT.clone()
    mask_NT[0, 2:6] = False
    assert outcome(SoftOverlong(0.4), replace(b, mask_NT=mask_NT)).tolist() == [1]


def test_the_shaped_reward_is_what_is_compared():
    b = judge(batch([6, 8], limit=10), REINFORCE.patch(shape=SoftOverlong(0.4, factor=1.0), advantage=returns))
    assert b.reward_N.tolist() == [1, 0.5]
    assert b.advantage_NT[:, 0].tolist() == [1, 0.5]
    assert b.reward_NT[1].tolist() == [0] * 7 + [0.5]


@pytest.mark.parametrize("buffer", [0.0, -0.1, 1.1])
def test_a_buffer_that_is_no_share_is_refused(buffer):
    with pytest.raises(ValueError, match="buffer"):
        SoftOverlong(buffer)


def test_a_factor_that_punishes_nothing_or_rewards_is_refused():
    for factor in (0.0, -1.0):
        with pytest.raises(ValueError, match="factor"):
            SoftOverlong(factor=factor)
