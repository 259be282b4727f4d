"""Corrections between sampler and learner, by hand."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import scored

from upslope.algo.aggregate import token_mean
from upslope.algo.correction import MaskedWeights, TruncatedWeights, no_correction
from upslope.algo.family import REINFORCE
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.regulariser import K2
from upslope.types import Batch

RATIOS = [[4.0, 0.5, 1.0], [1.5, 0.25, 99.0]]
"""Learner over sampler, token by token; the last token of the second row is padding, so its ratio is junk. The rows'
products: 2 and 3/8."""
SCORED = scored(torch.full((2, 3), -1.0, dtype=torch.float64))


SCORED = Scored(torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
"""The present policy, which none of these looks at."""


def batch():
    mask_NT = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    sampler_NT = torch.full((2, 3), -2.0, dtype=torch.float64)
    return Batch(
        rollouts=(None, None),
        mask_NT=mask_NT,
        reward_N=torch.zeros(2, dtype=torch.float64),
        group_N=torch.zeros(2, dtype=torch.long),
        truncated_N=torch.zeros(2, dtype=torch.bool),
        sampler_logp_NT=sampler_NT,
        old_logp_NT=sampler_NT + torch.tensor(RATIOS, dtype=torch.float64).log(),
        advantage_NT=mask_NT.double(),
    )


def inside(value_NT):
    return [row[m].tolist() for row, m in zip(value_NT, batch().mask_NT, strict=True)]


@pytest.mark.parametrize(
    ("correction", "weights", "cut"),
    [
        (TruncatedWeights(2.0), [[2, 0.5, 1], [1.5, 0.25]], [[True, False, False], [False, False]]),
        (TruncatedWeights(5.0), [[4, 0.5, 1], [1.5, 0.25]], [[False] * 3, [False] * 2]),
        (TruncatedWeights(1.25, "trajectory"), [[1.25] * 3, [0.375] * 2], [[True] * 3, [False] * 2]),
        (MaskedWeights(0.4, 2.0), [[0, 0.5, 1], [1.5, 0]], [[True, False, False], [False, True]]),
        (MaskedWeights(0.5, 2.5, "trajectory"), [[2] * 3, [0, 0]], [[False] * 3, [True] * 2]),
        (MaskedWeights(0.25, 1.5, "trajectory"), [[0] * 3, [0.375] * 2], [[True] * 3, [False] * 2]),
    ],
)
def test_weights_by_hand(correction, weights, cut):
    got, expected = inside(correction(SCORED, batch())), weights
    assert [pytest.approx(e) for e in expected] == got
    assert inside(correction.cut(SCORED, batch())) == cut


@pytest.mark.parametrize("correction", [TruncatedWeights(), MaskedWeights()])
def test_padding_is_neither_cut_nor_weighed(correction):
    assert correction(SCORED, batch())[1, 2] == 1
    assert not correction.cut(SCORED, batch())[1, 2]


@pytest.mark.parametrize("level", ["token", "trajectory"])
@pytest.mark.parametrize("kind", [TruncatedWeights, MaskedWeights])
def test_where_the_two_agree_nothing_changes(kind, level):
    b = replace(batch(), old_logp_NT=batch().sampler_logp_NT)
    assert inside(kind(level=level)(SCORED, b)) == [[1, 1, 1], [1, 1]]
    assert not kind(level=level).cut(SCORED, b).any()


def test_no_correction_is_none():
    assert no_correction(SCORED, batch()) is None


def test_the_surrogate_is_weighed_and_the_penalty_is_not_and_denominators_stay():
    """Advantages 1, log-probs -1, a penalty of 1/2 each (k2 at d = 1): five tokens, each 1/5.
    Loss = -(1/5) (sum_t c_t * -1 - 5 * 1/2) with c = 0, 0.5, 1, 1.5, 0: (3 + 2.5) / 5 = 1.1."""
    recipe = REINFORCE.patch(correction=MaskedWeights(0.4, 2.0), regulariser=K2(1.0), aggregate=token_mean)
    b = replace(batch(), reference_logp_NT=torch.full((2, 3), -2.0, dtype=torch.float64))
    b = replace(b, weight_NT=token_mean(b))
    logp_NT = torch.full((2, 3), -1.0, dtype=torch.float64, requires_grad=True)
    losses, _ = Objective(recipe)(scored(logp_NT), b)
    assert losses.policy.item() == pytest.approx(1.1)
    (slope_NT,) = torch.autograd.grad(losses.policy, logp_NT)
    # -(c_t - d_t) / 5 with d = 1
    expected = torch.tensor([[0.2, 0.1, 0], [-0.1, 0.2, 0]], dtype=torch.float64)
    torch.testing.assert_close(slope_NT, expected)


def test_weights_carry_no_gradient():
    b = batch()
    old_NT = b.old_logp_NT.clone().requires_grad_()
    for correction in (TruncatedWeights(), MaskedWeights()):
        assert not correction(SCORED, replace(b, old_logp_NT=old_NT)).requires_grad


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TruncatedWeights(0.9), "cap"),
        (lambda: TruncatedWeights(math.nan), "cap"),
        (lambda: MaskedWeights(1.1, 2.0), "low"),
        (lambda: MaskedWeights(-0.1, 2.0), "low"),
        (lambda: MaskedWeights(0.5, 0.9), "high"),
    ],
)
def test_a_senseless_range_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_both_log_probs_are_asked_for():
    assert TruncatedWeights().needs == MaskedWeights().needs == {"old_logp", "sampler_logp"}
    with pytest.raises(RuntimeError, match="old_logp_NT"):
        TruncatedWeights()(SCORED, replace(batch(), old_logp_NT=None))
