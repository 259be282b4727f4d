"""What is pushed: values, gradients, and where clipping cuts them."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.surrogate import ClippedRatio, likelihood
from upslope.train.prepare import to_batch


def one_token(advantage: float, old_logp: float = 0.0):
    b = to_batch([group("p", [1], [[5]], [0.0])], torch.device("cpu"), torch.float64)
    full = torch.full((1, 1), 1.0, dtype=torch.float64)
    return replace(b, advantage_NT=full * advantage, old_logp_NT=full * old_logp)


def value_and_slope(surrogate, ratio: float, advantage: float):
    """Value and derivative by log-prob at a given ratio."""
    logp_NT = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value = surrogate(logp_NT, one_token(advantage)).sum()
    (slope,) = torch.autograd.grad(value, logp_NT)
    return value.item(), slope.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),  # r A; d(rA)/dlogp = rA
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # risen far enough: clipped at 1.2
        (0.5, 2.0, 1.0, 1.0),  # moved the wrong way: pulled back
        (1.1, -2.0, -2.2, -2.2),
        (1.5, -2.0, -3.0, -3.0),  # moved the wrong way: pulled back
        (0.5, -2.0, -1.6, 0.0),  # fallen far enough: clipped at 0.8
    ],
)
def test_the_four_cases_of_ppo(ratio, advantage, value, slope):
    got = value_and_slope(ClippedRatio(0.2, 0.2), ratio, advantage)
    assert got == pytest.approx((value, slope))


def test_low_and_high_are_separate():
    assert value_and_slope(ClippedRatio(0.2, 0.28), 1.25, 1.0) == pytest.approx((1.25, 1.25))
    assert value_and_slope(ClippedRatio(0.2, 0.28), 1.3, 1.0) == pytest.approx((1.28, 0))


def test_clipped_marks_exactly_where_the_gradient_is_zero():
    surrogate = ClippedRatio()
    for ratio in (0.5, 0.9, 1.0, 1.1, 1.5):
        for advantage in (-1.0, 1.0):
            _, slope = value_and_slope(surrogate, ratio, advantage)
            logp_NT = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
            low, high = surrogate.clipped(logp_NT, one_token(advantage))
            assert bool(low | high) == (slope == 0)
            assert bool(low) == (slope == 0 and advantage < 0)


def test_at_ratio_one_the_clipped_ratio_has_the_gradient_of_the_likelihood():
    for advantage in (-1.5, 0.3):
        _, ratio_slope = value_and_slope(ClippedRatio(), 1.0, advantage)
        _, plain_slope = value_and_slope(likelihood, 1.0, advantage)
        assert ratio_slope == pytest.approx(plain_slope)


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.1, 0.2), (0.2, -0.1)])
def test_a_senseless_range_is_refused(low, high):
    with pytest.raises(ValueError, match="clip range"):
        ClippedRatio(low, high)


def test_a_field_that_prepare_did_not_fill_is_a_loud_error():
    b = replace(one_token(1.0), old_logp_NT=None)
    with pytest.raises(RuntimeError, match="old_logp_NT"):
        ClippedRatio()(torch.zeros(1, 1), b)
