"""What is pushed: values, gradients, and where clipping cuts them."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import group, scored

from upslope.algo.surrogate import ClippedRatio, ClippedWeight, ImportanceRatio, SequenceRatio, likelihood
from upslope.learn.prepare import to_batch


def one_token(advantage: float, old_logp: float = 0.0):
    b = to_batch([group("p", [1], [[5]], [0.0])], torch.device("cpu"), torch.float64)
    full = torch.full((1, 1), 1.0, dtype=torch.float64)
    return replace(b, advantage_NT=full * advantage, old_logp_NT=full * old_logp)


def value_and_slope(surrogate, ratio: float, advantage: float):
    """Value and derivative by log-prob at a given ratio."""
    logp_NT = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value = surrogate(scored(logp_NT), one_token(advantage)).sum()
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
        ClippedRatio()(scored(torch.zeros(1, 1)), b)


# -- dual clip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (5.0, 2.0, 2.4, 0.0),  # A > 0: min(10, 1.2 * 2); the dual bound plays no part
        (0.5, -2.0, -1.6, 0.0),  # A < 0, fallen: min(-1, 0.8 * -2) = -1.6, above 3 * -2
        (2.5, -2.0, -5.0, -5.0),  # A < 0, risen below the bound: r A, pulled back
        (5.0, -2.0, -6.0, 0.0),  # A < 0, risen above it: max(-10, 3 * -2)
    ],
)
def test_the_four_cases_of_the_dual_clip(ratio, advantage, value, slope):
    assert value_and_slope(ClippedRatio(dual=3.0), ratio, advantage) == pytest.approx((value, slope))


def test_without_dual_a_huge_ratio_of_a_bad_token_is_pulled_back_without_bound():
    assert value_and_slope(ClippedRatio(), 50.0, -2.0) == pytest.approx((-100, -100))


def test_the_dual_bound_is_marked_as_clipped_above():
    def marks(ratio, advantage):
        logp_NT = torch.tensor([[math.log(ratio)]], dtype=torch.float64)
        return tuple(map(bool, ClippedRatio(dual=3.0).clipped(logp_NT, one_token(advantage))))

    assert marks(5.0, -2.0) == (False, True)
    assert marks(2.5, -2.0) == (False, False)
    assert marks(5.0, 2.0) == (False, True)
    assert marks(0.5, -2.0) == (True, False)


@pytest.mark.parametrize("dual", [1.0, 0.5, -3.0, math.nan])
def test_a_dual_bound_that_is_none_is_refused(dual):
    with pytest.raises(ValueError, match="dual"):
        ClippedRatio(dual=dual)


# -- whole attempts -------------------------------------------------------------------------------------------------

RATIOS = [[2.0, 0.5, 4.0], [0.5, 0.125, 9.0]]
"""Token by token; the last token of the second row is padding, so that its ratio is junk."""


def two_rows(advantages=(1.0, -1.0)):
    """(logp, batch): rows of three and two tokens with the ratios above, both to old and to sampler."""
    b = to_batch([group("p", [1], [[5, 6, 7], [8, 9]], [0.0, 0.0])], torch.device("cpu"), torch.float64)
    start_NT = torch.full((2, 3), -1.0, dtype=torch.float64)
    advantage_NT = torch.where(b.mask_NT, torch.tensor(advantages, dtype=torch.float64)[:, None], 0)
    b = replace(b, advantage_NT=advantage_NT, old_logp_NT=start_NT, sampler_logp_NT=start_NT)
    logp_NT = start_NT + torch.tensor(RATIOS, dtype=torch.float64).log()
    return logp_NT.requires_grad_(), b


def values_and_slopes(surrogate, logp_NT, b):
    value_NT = surrogate(scored(logp_NT), b)
    (slope_NT,) = torch.autograd.grad((value_NT * b.mask_NT).sum(), logp_NT)
    return value_NT.detach(), slope_NT


def close(got, expected):
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_sequence_ratio_is_the_geometric_mean_and_stands_at_every_token():
    """Row one: (2 * 0.5 * 4)^(1/3) = 4^(1/3). Row two: (0.5 * 0.125)^(1/2) = 0.25. Every token's log-prob moves s by
    s / T, at T places, so the slope of the sum is s A at every token."""
    s, t = 4 ** (1 / 3), 0.25
    value_NT, slope_NT = values_and_slopes(SequenceRatio(0.9, 9.0), *two_rows())
    close(value_NT[0], [s, s, s])
    close(value_NT[1, :2], [-t, -t])
    close(slope_NT, [[s, s, s], [-t, -t, 0]])


def test_a_sequence_ratio_is_clipped_for_the_whole_attempt():
    """s = 1.59 > 1.2 with A > 0 and s = 0.25 < 0.8 with A < 0: both flat, though row one has a token at 0.5."""
    logp_NT, b = two_rows()
    value_NT, slope_NT = values_and_slopes(SequenceRatio(0.2, 0.2), logp_NT, b)
    close(value_NT[0], [1.2, 1.2, 1.2])
    close(value_NT[1, :2], [-0.8, -0.8])
    close(slope_NT, [[0, 0, 0], [0, 0, 0]])
    low_NT, high_NT = SequenceRatio(0.2, 0.2).clipped(logp_NT, b)
    assert low_NT.tolist() == [[False] * 3, [True, True, False]]  # padding has no advantage
    assert high_NT.tolist() == [[True] * 3, [False] * 3]


def test_a_sequence_ratio_is_pulled_back_where_it_moved_the_wrong_way():
    """The advantages the other way round: min picks s A, with gradient."""
    s, t = 4 ** (1 / 3), 0.25
    logp_NT, b = two_rows((-1.0, 1.0))
    _, slope_NT = values_and_slopes(SequenceRatio(0.2, 0.2), logp_NT, b)
    close(slope_NT, [[-s, -s, -s], [t, t, 0]])
    assert not any(marks_NT.any() for marks_NT in SequenceRatio(0.2, 0.2).clipped(logp_NT, b))


def test_a_sequence_ratio_of_a_row_without_tokens_is_one():
    logp_NT, b = two_rows()
    b = replace(b, mask_NT=torch.zeros_like(b.mask_NT))
    assert SequenceRatio().log_ratio(logp_NT, b).tolist() == [[0.0] * 3] * 2


# -- one ratio, an advantage a token --------------------------------------------------------------------------------

CLIPS = [(0.9, 9.0), (0.2, 0.2)]


@pytest.mark.parametrize("signs", [(1.0, -1.0), (-1.0, 1.0)])
@pytest.mark.parametrize(("low", "high"), CLIPS)
def test_with_one_advantage_an_attempt_both_levels_are_the_same(low, high, signs):
    """Value and gradient, clipped or not, moved the right way or the wrong one; and what is told of them."""
    logp_NT, b = two_rows(signs)
    whole, by_token = SequenceRatio(low, high), SequenceRatio(low, high, "token")
    one, other = values_and_slopes(whole, logp_NT, b), values_and_slopes(by_token, logp_NT, b)
    for expected_NT, found_NT in zip(one, other, strict=True):
        torch.testing.assert_close(found_NT[b.mask_NT], expected_NT[b.mask_NT], rtol=0, atol=1e-15)
    assert torch.equal(whole.log_ratio(logp_NT, b), by_token.log_ratio(logp_NT, b))
    for expected_NT, found_NT in zip(whole.clipped(logp_NT, b), by_token.clipped(logp_NT, b), strict=True):
        assert torch.equal(expected_NT, found_NT)


def test_by_tokens_every_advantage_pushes_its_own_token():
    """A = (3, 0, -3) at s = 1: the level of sequences pushes every token by the mean, which is 0; that of tokens by A.
    Row two, s = 1/4 and A = (-1, 1): s A."""
    logp_NT, b = two_rows()
    b = replace(b, advantage_NT=torch.tensor([[3.0, 0, -3], [-1, 1, 0]], dtype=torch.float64))
    b.old_logp_NT[0] = logp_NT.detach()[0]
    _, slope_NT = values_and_slopes(SequenceRatio(0.9, 9.0), logp_NT, b)
    close(slope_NT, [[0, 0, 0], [0, 0, 0]])
    _, slope_NT = values_and_slopes(SequenceRatio(0.9, 9.0, "token"), logp_NT, b)
    close(slope_NT, [[3, 0, -3], [-0.25, 0.25, 0]])


def test_by_tokens_the_clip_is_that_of_the_whole_attempt_and_of_each_advantage():
    """s = 1.59 > 1.2: tokens with A > 0 are flat, those with A < 0 are pulled back by s A, whatever their own ratio."""
    s = 4 ** (1 / 3)
    logp_NT, b = two_rows()
    b = replace(b, advantage_NT=torch.tensor([[3.0, 0, -3], [0, 0, 0]], dtype=torch.float64))
    surrogate = SequenceRatio(0.2, 0.2, "token")
    value_NT, slope_NT = values_and_slopes(surrogate, logp_NT, b)
    close(value_NT[0], [3.6, 0, -3 * s])
    close(slope_NT[0], [0, 0, -3 * s])
    assert surrogate.clipped(logp_NT, b)[1].tolist()[0] == [True, False, False]


def test_an_importance_ratio_by_token_is_against_the_sampler():
    """Old log-probs say ratio 1; the sampler's count."""
    logp_NT, b = two_rows()
    b = replace(b, old_logp_NT=logp_NT.detach())
    value_NT, slope_NT = values_and_slopes(ImportanceRatio(), logp_NT, b)
    close(value_NT[0], [2, 0.5, 4])
    close(value_NT[1, :2], [-0.5, -0.125])
    close(slope_NT, [[2, 0.5, 4], [-0.5, -0.125, 0]])


def test_an_importance_ratio_of_the_attempt_is_the_product_counted_once():
    """Row one: 2 * 0.5 * 4 = 4, a third of it at each token; row two: 0.5 * 0.125 = 1/16, a half at each. The sum over
    a row is w A, and its slope by every token's log-prob is w A as well."""
    value_NT, slope_NT = values_and_slopes(ImportanceRatio("trajectory"), *two_rows())
    close(value_NT[0], [4 / 3] * 3)
    close(value_NT[1, :2], [-1 / 32] * 2)
    close(slope_NT, [[4, 4, 4], [-1 / 16, -1 / 16, 0]])


def test_the_log_ratio_of_every_surrogate_ignores_padding():
    logp_NT, b = two_rows()
    changed_NT = torch.where(b.mask_NT, logp_NT.detach(), torch.tensor(77.0, dtype=torch.float64))
    for surrogate in (ClippedRatio(), SequenceRatio(), ImportanceRatio(), ImportanceRatio("trajectory")):
        assert torch.equal(surrogate.log_ratio(changed_NT, b), surrogate.log_ratio(logp_NT.detach(), b))


# -- clipped weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [
        (2.0, 1.0, 2.0),  # inside [0.5, 3]: the weight is the ratio
        (8.0, 1.0, 3.0),  # bounded above, whatever the advantage's sign
        (8.0, -1.0, 3.0),
        (0.25, 1.0, 0.5),  # bounded below
        (0.25, -1.0, 0.5),
    ],
)
def test_a_clipped_weight_never_silences_a_token(ratio, advantage, weight):
    """Value w A log pi, slope w A: the ratio itself has no gradient (else the slope would be w A (1 + log pi))."""
    value, slope = value_and_slope(ClippedWeight(0.5, 2.0), ratio, advantage)
    assert (value, slope) == pytest.approx((weight * advantage * math.log(ratio), weight * advantage))


def test_a_clipped_weight_has_no_lower_bound_unless_asked_and_five_for_an_upper_one():
    assert value_and_slope(ClippedWeight(), 1e-3, 1.0)[1] == pytest.approx(1e-3)
    assert value_and_slope(ClippedWeight(), 4.9, 1.0)[1] == pytest.approx(4.9)
    assert value_and_slope(ClippedWeight(), 50.0, 1.0)[1] == pytest.approx(5)


def test_bounded_weights_are_marked_by_side():
    logp_NT, b = two_rows()
    low_NT, high_NT = ClippedWeight(0.6, 2.0).clipped(logp_NT, b)
    assert low_NT[:, :2].tolist() == [[False, False], [False, True]]  # below 0.4: 0.125
    assert high_NT[0].tolist() == [False, False, True]  # above 3: 4


# -- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "surrogate", [ClippedRatio(), ClippedRatio(dual=3.0), SequenceRatio(), ClippedWeight(), ImportanceRatio()]
)
@pytest.mark.parametrize("advantage", [-1.5, 0.3])
def test_where_the_policy_has_not_moved_every_surrogate_has_the_gradient_of_its_parent(surrogate, advantage):
    b = replace(one_token(advantage), sampler_logp_NT=torch.zeros(1, 1, dtype=torch.float64))
    logp_NT = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate(scored(logp_NT), b).sum(), logp_NT)
    assert slope.item() == pytest.approx(advantage)


@pytest.mark.parametrize("surrogate", [SequenceRatio, ClippedWeight])
def test_every_clip_range_is_checked(surrogate):
    with pytest.raises(ValueError, match="clip range"):
        surrogate(1.5, 0.2)
