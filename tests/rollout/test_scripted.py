"""The sampler that writes what it is told, and refuses what no policy can have written."""

from __future__ import annotations

import pytest

from upslope.errors import UserError
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.scripted import ScriptedSampler
from upslope.types import Sampling

HERE = Address(0, "sample")
ASKED = Request("toy/0", 1, (3, 4))
END = 2


def test_tokens_by_problem_and_sample_are_certain() -> None:
    sampler = ScriptedSampler({("toy/0", 0): (7, END), ("toy/0", 1): (5, 6, 5)}, end_ids=(END,))
    (got,) = sampler.generate([ASKED], Sampling(max_tokens=3), HERE)
    assert (got.response, got.logp, got.ended) == ((5, 6, 5), (0.0, 0.0, 0.0), "length")
    assert sampler.asked == [ASKED]


def test_a_function_sees_the_request_and_gives_log_probabilities_too() -> None:
    sampler = ScriptedSampler(lambda r: ((*r.prompt, r.sample + 8, END), (-1.0, -0.5, -2.0, -0.25)), end_ids=(END, 1))
    (got,) = sampler.generate([ASKED], Sampling(max_tokens=9), HERE)
    assert (got.response, got.logp, got.ended) == ((3, 4, 9, END), (-1.0, -0.5, -2.0, -0.25), "stop")
    (surest,) = sampler.generate([ASKED], Sampling(0.0, max_tokens=9), HERE)
    assert surest.logp == (0.0,) * 4


def test_a_request_without_a_script_is_named() -> None:
    sampler = ScriptedSampler({("toy/0", 0): (END,)}, end_ids=(END,))
    with pytest.raises(UserError, match="the script has nothing for sample 1 of problem toy/0"):
        sampler.generate([ASKED], Sampling(), HERE)


@pytest.mark.parametrize(
    ("response", "logp", "fault"),
    [
        ((), (), "0 tokens, is empty"),
        ((5, 5, 5, 5, 5, END), None, "6 tokens, is longer than max_tokens=5"),
        ((5, END), None, "ends before min_tokens=2"),
        ((5, 5, END, 5, 5), None, "goes on after an end token"),
        ((5, 5, END, END), None, "goes on after an end token"),
        ((5, 5, 5, 5), None, "has neither an end token nor max_tokens=5"),
        ((5, 5, END), (-1.0, -1.0), "has 2 log-probabilities"),
        ((5, 5, END), (-1.0, 0.5, -1.0), "log-probability that is not at most 0"),
        ((5, 5, END), (-1.0, float("nan"), -1.0), "log-probability that is not at most 0"),
    ],
)
def test_a_response_that_cannot_have_been_drawn_is_refused(
    response: tuple[int, ...], logp: tuple[float, ...] | None, fault: str
) -> None:
    told = (response, (-1.0,) * len(response) if logp is None else logp)
    sampler = ScriptedSampler(lambda _: told, end_ids=(END,))
    with pytest.raises(UserError, match=f"sample 1 of problem toy/0, .*{fault}"):
        sampler.generate([ASKED], Sampling(min_tokens=2, max_tokens=5), HERE)


@pytest.mark.parametrize("response", [(5, 5, END), (5, 5, 5, 5, END), (5, 5, 5, 5, 5)])
def test_the_least_and_the_most_that_can_be_drawn_are_taken(response: tuple[int, ...]) -> None:
    sampler = ScriptedSampler({("toy/0", 1): response}, end_ids=(END,))
    (got,) = sampler.generate([ASKED], Sampling(min_tokens=2, max_tokens=5), HERE)
    assert got.response == response
