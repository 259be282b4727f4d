"""What every sampler owes (``rollout/base.py``), asked of each: of this process, packed and plain, and of a script."""

from __future__ import annotations

import threading

import pytest
import tiny
from naive import ENDS, HERE, SAMPLING
from samplers import REQUESTS, SAMPLINGS, Make, every, require_told_once

from upslope.errors import UserError
from upslope.rollout.base import Request
from upslope.types import Sampling, Score


@every
@pytest.mark.parametrize(
    "requests", [REQUESTS, REQUESTS[::-1], REQUESTS[4:5], []], ids=["all", "turned", "one", "none"]
)
def test_one_rollout_for_each_request_in_their_order(make: Make, requests: list[Request]) -> None:
    got = make(SAMPLING).generate(requests, SAMPLING, HERE)
    assert [(r.problem_id, r.sample, r.prompt) for r in got] == [(q.problem_id, q.sample, q.prompt) for q in requests]


@every
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_response_ends_with_its_first_end_token_or_at_the_limit(make: Make, sampling: Sampling) -> None:
    got = make(sampling).generate(REQUESTS, sampling, HERE)
    for r in got:
        assert 1 <= len(r.response) <= sampling.max_tokens
        ends = [t for t, token in enumerate(r.response) if token in ENDS]
        assert ends in ([], [len(r.response) - 1]) and all(t >= sampling.min_tokens for t in ends)
        assert r.ended == ("stop" if ends else "length")
        assert ends or len(r.response) == sampling.max_tokens
    if sampling == SAMPLING:
        assert {r.ended for r in got} == {"stop", "length"}, "one way of ending was never tried"


@every
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_tokens_have_log_probabilities_and_are_the_policys_own_and_there_is_no_text(
    make: Make, sampling: Sampling
) -> None:
    for r in make(sampling).generate(REQUESTS, sampling, HERE):
        assert r.logp is not None and len(r.logp) == len(r.response)
        assert all(x == 0 if sampling.greedy else x <= 0 for x in r.logp)
        assert r.mask == (True,) * len(r.response)
        assert (r.text, r.score) == ("", Score(0.0))


@every
def test_what_is_written_does_not_depend_on_company_or_order(make: Make) -> None:
    def responses(*groups: list[Request]) -> dict[tuple[str, int], tuple[int, ...]]:
        sampler = make(SAMPLING)
        found = [r for requests in groups for r in sampler.generate(requests, SAMPLING, HERE)]
        return {(r.problem_id, r.sample): r.response for r in found}

    expected = responses(REQUESTS)
    assert len(set(expected.values())) > 3
    assert responses(REQUESTS[::-1]) == responses(*([q] for q in REQUESTS)) == expected


@every
def test_every_rollout_is_told_of_once_with_its_place_and_after_the_progress_that_counts_it(make: Make) -> None:
    require_told_once(make(SAMPLING))


@every
def test_a_rollout_carries_the_version_of_the_weights_that_wrote_it(make: Make) -> None:
    sampler = make(SAMPLING)
    assert sampler.version == 0
    assert {r.version for r in sampler.generate(REQUESTS, SAMPLING, HERE)} == {0}
    sampler.load(tiny.policy(seed=1).weights(), version=7)
    assert sampler.version == 7
    assert {r.version for r in sampler.generate(REQUESTS, SAMPLING, HERE)} == {7}


@every
def test_a_prompt_without_room_is_refused_before_anything_is_written(make: Make) -> None:
    """256 positions: 244 tokens and 12 to come are the most."""
    fits, not_any_more = (Request("long", 0, tuple(range(3, 43)) * 6 + (5,) * num) for num in (4, 5))
    sampler, told = make(SAMPLING), []
    assert len(sampler.generate([fits], SAMPLING, HERE)) == 1
    with pytest.raises(
        UserError, match=r"problem long: 245 prompt tokens and max_tokens=12 do not fit .* 256 positions"
    ):
        sampler.generate([*REQUESTS, not_any_more], SAMPLING, HERE, lambda *now: told.append(now))
    assert told == []


@every
@pytest.mark.parametrize("listener", ["progress", "finished"])
def test_what_a_listener_raises_ends_the_generation(make: Make, listener: str) -> None:
    calls = []

    def refuse(*now: object) -> None:
        calls.append(now)
        if len(calls) == 2:
            raise LookupError(listener)

    sampler = make(SAMPLING)
    with pytest.raises(LookupError, match=listener):
        sampler.generate(REQUESTS, SAMPLING, HERE, **{listener: refuse})  # type: ignore[arg-type]
    assert len(calls) == 2
    assert len(sampler.generate(REQUESTS, SAMPLING, HERE)) == len(REQUESTS)


@every
def test_another_thread_may_ask(make: Make) -> None:
    sampler, found, threads = make(SAMPLING), [], set()
    expected = sampler.generate(REQUESTS, SAMPLING, HERE)

    def ask() -> None:
        found.extend(sampler.generate(REQUESTS, SAMPLING, HERE, lambda *_: threads.add(threading.current_thread())))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == expected
    assert threads == {thread}
