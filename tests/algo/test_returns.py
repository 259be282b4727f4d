"""Rewards to go and generalised advantages, by hand."""

import pytest
import torch

from upslope.algo.returns import discounted, generalised_advantage, lambda_returns, outcome_at_last


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def marks(*values):
    return torch.tensor(values, dtype=torch.bool)


def close(got, expected):
    torch.testing.assert_close(got, rows(*expected), rtol=0, atol=1e-12)


# -- the outcome ----------------------------------------------------------------------------------------------------


def test_the_outcome_falls_on_the_last_chosen_token():
    """Full row; padded row; a hole at the end (a tool had the last word); a hole in the middle; nothing chosen."""
    mask = marks([1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0])
    got = outcome_at_last(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64), mask)
    assert got.tolist() == [[0, 0, 1], [2, 0, 0], [0, 3, 0], [0, 0, 4], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_an_outcome_of_nothing_is_nothing(shape):
    assert outcome_at_last(torch.ones(shape[0]), torch.ones(shape, dtype=torch.bool)).shape == shape


# -- rewards to go --------------------------------------------------------------------------------------------------


def test_rewards_to_go():
    """gamma = 1/2: G_3 = 4, G_2 = 2 + 4/2 = 4, G_1 = 1 + 4/2 = 3."""
    close(discounted(rows([1, 2, 4]), marks([1, 1, 1]), 0.5), [[3, 4, 4]])
    close(discounted(rows([1, 2, 4]), marks([1, 1, 1]), 1.0), [[7, 6, 4]])
    close(discounted(rows([1, 2, 4]), marks([1, 1, 1]), 0.0), [[1, 2, 4]])


def test_time_passes_with_chosen_tokens_only():
    """The hole costs no factor of gamma: G_1 = 1 + 4/2 = 3, as if the two tokens were neighbours."""
    close(discounted(rows([1, 9, 4]), marks([1, 0, 1]), 0.5), [[3, 0, 4]])


# -- generalised advantages -----------------------------------------------------------------------------------------

REWARD, VALUE = rows([0, 1, 4]), rows([2, 3, 5])


def test_lambda_zero_is_the_temporal_difference():
    """gamma = 1/2. delta_3 = 4 + 0 - 5 = -1; delta_2 = 1 + 5/2 - 3 = 1/2; delta_1 = 0 + 3/2 - 2 = -1/2."""
    close(generalised_advantage(REWARD, VALUE, marks([1, 1, 1]), 0.5, 0.0), [[-0.5, 0.5, -1]])


def test_lambda_one_is_the_reward_to_go_less_the_value():
    """gamma = 1/2. G = (0 + 3/2, 1 + 4/2, 4) = (1.5, 3, 4); less V = (2, 3, 5)."""
    close(generalised_advantage(REWARD, VALUE, marks([1, 1, 1]), 0.5, 1.0), [[-0.5, 0, -1]])


def test_lambda_in_between():
    """gamma = 1/2, lambda = 1/2: A_3 = -1; A_2 = 1/2 - 1/4 = 1/4; A_1 = -1/2 + 1/16 = -7/16."""
    close(generalised_advantage(REWARD, VALUE, marks([1, 1, 1]), 0.5, 0.5), [[-0.4375, 0.25, -1]])


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_what_was_not_chosen_is_stepped_over_as_if_it_were_not_there(lam):
    """Pitfall 20: holes at the start, in the middle and at the end; their values and rewards are junk."""
    mask = marks([0, 1, 0, 0, 1, 1, 0])
    reward, value = rows([70, 0, 71, 72, 1, 4, 73]), rows([80, 2, 81, 82, 3, 5, 83])
    got = generalised_advantage(reward, value, mask, 0.5, lam)
    alone = generalised_advantage(REWARD, VALUE, marks([1, 1, 1]), 0.5, lam)
    assert torch.equal(got[mask][None], alone)
    assert not got[~mask].any()


def test_junk_outside_the_mask_reaches_nothing_even_if_it_is_nan():
    mask = marks([1, 0, 1, 0])
    expected = generalised_advantage(rows([0, 0, 1, 0]), rows([2, 0, 3, 0]), mask, 0.9, 0.8)
    poisoned = generalised_advantage(
        rows([0, torch.nan, 1, torch.inf]), rows([2, torch.inf, 3, torch.nan]), mask, 0.9, 0.8
    )
    assert torch.equal(poisoned, expected)


def test_rows_never_see_each_other():
    """Pitfall 20: what a neighbour earns or is thought to be worth changes nothing, whatever their lengths."""
    mask = marks([1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0])
    draw = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    together = generalised_advantage(reward, value, mask, 0.9, 0.8)
    for row in range(3):
        one = slice(row, row + 1)
        length = int(mask[row].sum())
        alone = generalised_advantage(reward[one, :length], value[one, :length], mask[one, :length], 0.9, 0.8)
        assert torch.equal(together[one, :length], alone)


def test_after_the_last_token_the_value_is_zero():
    """Also for an attempt that fills the rectangle: A = r - V, nothing beyond."""
    close(generalised_advantage(rows([1.0]), rows([0.25]), marks([1]), 1.0, 0.95), [[0.75]])


# -- lambda-returns -------------------------------------------------------------------------------------------------


def test_lambda_returns_by_hand():
    """gamma = 1/2, lambda = 1/2: G_3 = 4; G_2 = 1 + (5 + 4)/4 = 13/4; G_1 = 0 + (3 + 13/4)/4 = 25/16."""
    close(lambda_returns(REWARD, VALUE, marks([1, 1, 1]), 0.5, 0.5), [[1.5625, 3.25, 4]])


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_lambda_returns_are_generalised_advantages_plus_the_value(lam):
    mask = marks([0, 1, 0, 0, 1, 1, 0])
    reward, value = rows([70, 0, 71, 72, 1, 4, 73]), rows([80, 2, 81, 82, 3, 5, 83])
    expected = generalised_advantage(reward, value, mask, 0.5, lam) + value * mask
    torch.testing.assert_close(lambda_returns(reward, value, mask, 0.5, lam), expected, rtol=0, atol=1e-12)


def test_at_lambda_one_they_are_the_rewards_to_go_bit_for_bit():
    draw = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(3, 40, generator=draw) for _ in range(2))
    mask = torch.rand(3, 40, generator=draw) < 0.8
    assert torch.equal(lambda_returns(reward, value, mask, 0.99, 1.0), discounted(reward, mask, 0.99))
