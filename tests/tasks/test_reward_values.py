"""What reward functions are given, and what they may return."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upslope.errors import UserError
from upslope.tasks.registry import load_rewards
from upslope.tasks.response import Response, Standing
from upslope.types import Problem

ASKED = [
    Problem(f"toy/{i}", ({"role": "user", "content": "?"},), plain=True, columns={"cell": {"n": [i]}}) for i in range(2)
]


def parts(*functions: Any) -> list[Any]:
    scores = load_rewards(functions).score(ASKED, ("a", "b"))
    return [dict(s.parts) if len(functions) > 1 else s.reward for s in scores]


# Arguments


def test_every_function_has_its_own_copy_of_every_cell() -> None:
    def pops(completions: Any, cell: Any, prompts: Any, **kwargs: Any) -> list[float]:
        kwargs["trainer_state"].global_step = 99
        return [float(each["n"].pop()) for each in cell]

    def reads(completions: Any, cell: Any, trainer_state: Any) -> list[float]:
        assert trainer_state.global_step == 0
        return [float(len(each["n"])) for each in cell]

    same = [ASKED[1], ASKED[1]]  # two attempts at one problem
    rewards = load_rewards([pops, reads])
    for _ in range(2):
        assert [dict(s.parts) for s in rewards.score(same, ("a", "b"))] == [{"pops": 1.0, "reads": 1.0}] * 2
    assert ASKED[1].columns == {"cell": {"n": [1]}}


def test_rewards_are_told_tokens_and_how_far_the_run_is() -> None:
    def r(completion_ids: Any, trainer_state: Any, log_metric: Any, log_extra: Any) -> list[float]:
        assert (trainer_state.global_step, trainer_state.max_steps, trainer_state.epoch) == (30, 60, 1.5)
        log_metric("share", 0.25)
        log_metric("share", np.float32(0.75))
        log_extra("first", [ids[0] for ids in completion_ids])
        return [float(len(ids)) for ids in completion_ids]

    responses = [Response(text, tokens, Standing(30, 60, 1.5)) for text, tokens in (("a", (7, 2)), ("b", (5,)))]
    one, two = load_rewards([r]).score(ASKED, responses)
    assert (one.reward, dict(one.told), dict(one.extra)) == (2.0, {"share": 0.5}, {"first": 7})
    assert (two.reward, dict(two.told), dict(two.extra)) == (1.0, {"share": 0.5}, {"first": 5})


@pytest.mark.parametrize(
    "call",
    [lambda log_metric, log_extra: log_metric("a", "x"), lambda log_metric, log_extra: log_extra("a", [1])],
)
def test_what_cannot_be_written_down_is_said(call: Callable[..., Any]) -> None:
    def r(completions: Any, log_metric: Any, log_extra: Any) -> list[float]:
        call(log_metric, log_extra)
        return [1.0, 1.0]

    with pytest.raises(UserError, match=r"'r' crashed .*log_(metric|extra)"):
        parts(r)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def inner(completions: Any, **kwargs: Any) -> Any:
        return function(completions, scale=2.0)

    return inner


def test_a_wrapper_is_asked_for_what_it_takes_itself() -> None:
    @wrapped
    def scaled(completions: Any, scale: float) -> list[float]:
        return [scale] * len(completions)

    def only_keywords(*, completions: Any, bonus: float = 1.0, **kwargs: Any) -> list[float]:
        return [bonus + len(kwargs["cell"])] * 2

    assert parts(scaled, only_keywords) == [{"scaled": 2.0, "only_keywords": 3.0}] * 2


# Values


def numbers() -> Iterator[float]:
    yield 0.5
    yield 1.0


async def later() -> Any:
    yield 0.5
    yield 1.0


@pytest.mark.parametrize(
    "made",
    [
        lambda: (0.5, 1.0),
        numbers,
        later,
        lambda: map(float, ("0.5", "1")),
        lambda: np.array([0.5, 1.0], np.float16),
        lambda: np.array([[0.5], [1.0]]),
        lambda: torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True),
        lambda: torch.tensor([[0.5], [1.0]]),
        lambda: [torch.tensor(0.5), np.float32(1)],
        lambda: pd.Series([0.5, 1.0], index=[7, 3]),
        lambda: [Decimal("0.5"), Fraction(1)],
        lambda: [np.float64(0.5), np.bool_(True)],
        lambda: {"a": 0.5, "b": 1.0}.values(),
    ],
)
def test_every_row_of_numbers_is_values(made: Callable[[], Any]) -> None:
    assert parts(lambda completions: made()) == [0.5, 1.0]


def test_a_none_of_pandas_is_none() -> None:
    def some(completions: Any) -> Any:
        return pd.Series([1.0, None], dtype="Float64")

    def all_of_them(completions: Any) -> list[float]:
        return [0.0, 0.0]

    assert parts(some, all_of_them)[1] == {"some": None, "all_of_them": 0.0}


@pytest.mark.parametrize("result", ["12", {0.5, 1.0}, {0.5: 1, 1.0: 2}, np.float64(1.0), torch.tensor(1.0)])
def test_what_is_no_row_of_numbers_is_refused(result: Any) -> None:
    with pytest.raises(UserError, match="return a list"):
        parts(lambda completions: result)
