"""The one reduction: exact small examples, and that parts add up to the whole."""

import pytest
import torch
from tiny import by_row

from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.types import Batch


def of(mask, dtype=torch.float64, limit=0):
    """A batch of which aggregates read the mask, the number of rollouts, and the limit."""
    num = len(mask)
    return Batch((None,) * num, mask, torch.zeros(num, dtype=dtype), torch.zeros(num).long(), mask[:, 0], limit=limit)


MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)  # lengths 4, 1, 2


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (sequence_sum, [1 / 3, 1 / 3, 1 / 3]),
        (sequence_mean, [1 / 12, 1 / 3, 1 / 6]),  # 1 / (3 * length)
        (token_mean, [1 / 7, 1 / 7, 1 / 7]),  # 7 tokens in all
        (ConstantLength(8), [1 / 24, 1 / 24, 1 / 24]),  # 1 / (3 * 8)
        (ConstantLength(), [1 / 12, 1 / 12, 1 / 12]),  # no limit known: the widest row, 4
    ],
)
def test_weights_by_hand(aggregate, expected):
    weight_NT = aggregate(of(MASK))
    assert weight_NT.dtype == torch.float64
    torch.testing.assert_close(weight_NT, torch.tensor(expected, dtype=torch.float64)[:, None] * MASK)


def test_an_empty_rollout_counts_as_a_rollout_but_not_as_tokens():
    mask = torch.tensor([[1, 1], [0, 0]], dtype=torch.bool)
    assert sequence_mean(of(mask)).tolist() == [[0.25, 0.25], [0, 0]]  # 1/(2*2)
    assert token_mean(of(mask)).tolist() == [[0.5, 0.5], [0, 0]]


def test_no_rollouts_give_no_weights_and_no_error():
    mask = torch.zeros(0, 1, dtype=torch.bool)
    for aggregate in (sequence_sum, sequence_mean, token_mean, ConstantLength(3)):
        assert aggregate(of(mask)).shape == (0, 1)


def test_length_bias_of_the_sequence_mean_and_its_absence_elsewhere():
    """A token of a 50-token answer against one of a 500-token answer."""
    mask = torch.zeros(2, 500, dtype=torch.bool)
    mask[0, :50] = True
    mask[1, :] = True
    short, long = by_row(sequence_mean(of(mask)), mask)
    assert short / long == pytest.approx(10)
    for aggregate in (sequence_sum, token_mean, ConstantLength(500)):
        short, long = by_row(aggregate(of(mask)), mask)
        assert short == long


def test_constant_length_takes_the_longest_response_that_sampling_allows():
    assert by_row(ConstantLength()(of(MASK, limit=32)), MASK) == [1 / 96] * 3
