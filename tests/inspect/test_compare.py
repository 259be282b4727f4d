"""Two evaluations on the same problems."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
from made_runs import made_attempts, made_run

from upslope.errors import UserError
from upslope.inspect.compare.command import compare_command
from upslope.inspect.compare.paired import Paired, paired
from upslope.inspect.compare.sides import open_side
from upslope.record.attempts import EVAL_SCHEMA, write


def test_mcnemar_is_the_binomial_test() -> None:
    # Of 5 disagreements the first won 1: 2 (C(5,0) + C(5,1)) / 2^5 = 2 x 6 / 32.
    assert Paired(10, 1, 4, 10).p_value == 12 / 32
    assert Paired(10, 4, 1, 10).p_value == 12 / 32
    assert Paired(10, 3, 3, 10).p_value == 1.0
    assert Paired(10, 0, 0, 10).p_value == 1.0
    assert Paired(0, 0, 10, 0).p_value == 2 / 2**10


def test_the_interval_is_newcombes() -> None:
    """38 and 48 of 50 are right: 0.76 [0.6259, 0.8570] and 0.96 [0.8654, 0.9890] by Wilson; phi = (36 x 0 - 2 x 12) /
    sqrt(38 x 12 x 48 x 2) = -0.1147. So the lower end lies sqrt(0.0946^2 + 2 x 0.1147 x 0.0946 x 0.0970 + 0.0970^2) =
    0.1431 below 0.2, the upper one sqrt(0.0290^2 + 2 x 0.1147 x 0.0290 x 0.1341 + 0.1341^2) = 0.1404 above."""
    found = Paired(36, 2, 12, 0).difference
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 0.1431, 0.2 + 0.1404), abs=1e-4)


@pytest.mark.parametrize("chances", [(0.3, 0.1, 0.2, 0.4), (0.6, 0.05, 0.05, 0.3), (0.1, 0.2, 0.05, 0.65)])
def test_it_covers_the_true_difference_as_often_as_it_says(chances: tuple[float, ...]) -> None:
    """Every table of 24 problems with its exact probability."""
    num, truth, covered = 24, chances[2] - chances[1], 0.0
    for both in range(num + 1):
        for first in range(num - both + 1):
            for second in range(num - both - first + 1):
                counts = (both, first, second, num - both - first - second)
                ways = math.factorial(num) / math.prod(map(math.factorial, counts))
                chance = ways * math.prod(p**n for p, n in zip(chances, counts, strict=True))
                found = Paired(*counts).difference
                covered += chance * (found.low <= truth <= found.high)
    assert 0.93 < covered < 0.999  # few disagreements: more often than it says


def test_changing_sides_changes_the_sign_alone() -> None:
    for both, first, second, neither in product((0, 3, 17), repeat=4):
        if both + first + second + neither == 0:
            continue
        one, other = Paired(both, first, second, neither), Paired(both, second, first, neither)
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert one.difference.low == pytest.approx(-other.difference.high)
        assert one.difference.low - 1e-12 <= one.difference.value <= one.difference.high + 1e-12
        assert one.difference.low >= -1 - 1e-9 and one.difference.high <= 1 + 1e-9


def test_problems_in_common_tell_more_than_problems_apart() -> None:
    alike, apart = Paired(40, 2, 8, 50).difference, Paired(20, 22, 28, 30).difference
    assert alike.high - alike.low < apart.high - apart.low


def test_what_is_counted() -> None:
    assert paired([True, True, False, False, False], [True, False, True, False, False]) == Paired(1, 1, 1, 2)


def evaluated(folder: Path, right: set[int], num: int = 8) -> Path:
    made_run(folder, 3)
    rows = made_attempts(0, num, 1, 4, "w", reward=lambda n: float(n in right), problem=lambda n: f"q{n}")
    write(folder / "rollouts" / "eval-000003.parquet", rows.select(EVAL_SCHEMA.names))
    return folder


def test_the_command_names_what_was_won_and_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = evaluated(tmp_path / "one", {0, 1, 2}), evaluated(tmp_path / "two", {1, 2, 3, 4, 5}, num=10)
    compare_command(str(one), str(two), 1, as_json=False)
    words = capsys.readouterr().out
    assert "37.5 %" in words and "62.5 %" in words and "+25.0 points" in words
    assert "on the same 8 problems" in words and "too close to call" in words
    assert "left out: 0 problems of the first and 2 of the second" in words
    assert "won 3: q3, q4, q5" in words and "lost 1: q0" in words
    assert "What is 3 + 0?" in words
    compare_command(str(one), f"{two}@3", 0, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["won"], told["lost"], told["num_problems"]) == (["q3", "q4", "q5"], ["q0"], 8)
    assert math.isclose(told["p_value"], 2 * (1 + 4) / 2**4)


def test_problems_of_one_name_and_other_words_are_not_the_same(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path / "one", {0}), evaluated(tmp_path / "two", {1})
    rows = made_attempts(0, 8, 1, 4, "w", problem=lambda n: f"q{n}", prompt_text=lambda n: f"The capital of {n}?")
    write(two / "rollouts" / "eval-000003.parquet", rows.select(EVAL_SCHEMA.names))
    with pytest.raises(UserError, match="8 problems of the same names, and none of the same words"):
        compare_command(str(one), str(two), 0, as_json=False)


def test_many_disagreements_take_no_time() -> None:
    assert Paired(0, 30_000, 30_100, 0).p_value == pytest.approx(0.687, abs=0.01)


def test_a_side_that_is_none_is_one_line(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "one", {0})
    with pytest.raises(UserError, match="no evaluation was kept there"):
        open_side(str(tmp_path / "none"))
    with pytest.raises(UserError, match="there are evaluations after 0, 3 steps"):
        open_side(f"{run}@7")
    assert open_side(f"{run}@0").name.endswith("@0")
    assert open_side(str(run / "rollouts" / "eval-000003.parquet")).answers["q0"].right
    made_run(tmp_path / "other", 3)
    with pytest.raises(UserError, match="no problem in common"):
        compare_command(str(run), str(tmp_path / "other"), 0, as_json=False)
