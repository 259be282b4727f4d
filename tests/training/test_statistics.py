from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given, strategies as st

from upslope.training.statistics import Z_95, mean_interval, pass_at_k, wilson


def test_wilson_by_hand() -> None:
    # z² = 3.841459. No success of 10: low 0, high z² / (n + z²) = 3.841459 / 13.841459.
    assert wilson(0, 10).low == 0.0
    assert wilson(0, 10).high == pytest.approx(0.2775328, abs=1e-7)
    # 5 of 10: centre 1/2, half z * sqrt(0.25/10 + 3.841459/400) / (1 + 0.3841459) = 1.959964 * 0.186022 / 1.384146
    half = wilson(5, 10)
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.2365931, 0.7634069), abs=1e-7)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_its_equation(counts: tuple[int, int]) -> None:
    successes, trials = counts
    found = wilson(successes, trials)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    for end in (found.low, found.high):
        assert abs(found.value - end) == pytest.approx(Z_95 * math.sqrt(end * (1 - end) / trials), abs=1e-7)
    mirrored = wilson(trials - successes, trials)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_wilson_covers_as_often_as_it_says() -> None:
    num, shares = 30, [i / 50 for i in range(1, 50)]
    covered = [
        sum(
            math.comb(num, s) * q**s * (1 - q) ** (num - s)
            for s in range(num + 1)
            if wilson(s, num).low <= q <= wilson(s, num).high
        )
        for q in shares
    ]
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, trials)


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(counts: tuple[int, int, int]) -> None:
    num, correct, k = counts
    subsets = list(combinations([True] * correct + [False] * (num - correct), k))
    assert pass_at_k(num, correct, k) == sum(map(any, subsets)) / len(subsets)


def test_pass_at_k_limits() -> None:
    assert pass_at_k(10, 3, 1) == 0.3  # k = 1 is the accuracy
    assert pass_at_k(10, 1, 10) == 1.0
    assert pass_at_k(10, 0, 10) == 0.0
    # C(1800, 100) / C(2000, 100) by logarithms: far beyond what floats hold factor by factor
    log_missing = sum(math.log((1800 - i) / (2000 - i)) for i in range(100))
    assert pass_at_k(2000, 200, 100) == pytest.approx(-math.expm1(log_missing), rel=1e-12)


@pytest.mark.parametrize(("num", "correct", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_pass_at_k_refuses_impossible_counts(num: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="need"):
        pass_at_k(num, correct, k)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_mean_interval_of_zeros_and_ones_is_wilson(hits: list[bool]) -> None:
    assert mean_interval([float(hit) for hit in hits]) == wilson(sum(hits), len(hits))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_mean_interval_holds_the_mean_and_is_never_a_point(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01
    half = 0.5 * (found.high - found.low)
    shrunk = mean_interval(values * 4)
    assert 0.5 * (shrunk.high - shrunk.low) < half  # four times the problems say more


@pytest.mark.parametrize("values", [[], [0.5, 1.5], [-0.1], [math.nan]])
def test_mean_interval_refuses_what_is_no_share(values: list[float]) -> None:
    with pytest.raises(ValueError, match="0, 1"):
        mean_interval(values)
