"""Stop strings: the same attempts whichever engine writes them, ended with the token that completes one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from naive import HERE, flat
from tiny import TOKENIZER, drawn, policy, problems
from tokenizers import AddedToken

from upslope.errors import UserError
from upslope.model.hf import use_attention
from upslope.rollout.base import Request
from upslope.rollout.scripted import ScriptedSampler
from upslope.rollout.stopping import StopStrings
from upslope.types import Sampling

PLAIN = Sampling(max_tokens=16)


def attempts(sampling, *, packed=True, native=True, num=3, **settings):
    subject = policy()
    subject.native = subject.native and native
    if not packed:
        use_attention(subject.model, "sdpa")
    return flat(drawn(subject, problems(2), num, sampling, HERE, packed=packed, **settings))


def expected(rollout, stops, min_tokens=0):
    """The naive way: read the text anew after every token."""
    read = policy().renderer.text
    for num in range(1, len(rollout.response) + 1):
        before, now = read(rollout.response[: num - 1]), read(rollout.response[:num])
        ends = [
            place + len(stop)
            for stop in stops
            for place in range(len(now))
            if now.startswith(stop, place) and place + len(stop) > len(before)
        ]
        if ends and num > min_tokens and rollout.response[num - 1] != TOKENIZER.eos_token_id:
            return rollout.response[:num], now[: min(ends)], "stop_string"
    return rollout.response, rollout.text, rollout.ended


WHOLE = attempts(PLAIN)
STOPS = (WHOLE[0].text[4:6], WHOLE[5].text[15:19], "no such text")
"""Two that really come, in the middle of tokens and over their ends."""


@pytest.mark.parametrize(
    ("engine", "min_tokens"),
    [({}, 0), ({}, 7), ({"native": False}, 0), ({"packed": False}, 0), ({"max_rows": 2}, 0)],
    ids=["native", "native, late", "shared", "plain", "few rows"],
)
def test_an_attempt_ends_where_the_naive_way_ends_it(engine, min_tokens):
    without = attempts(replace(PLAIN, min_tokens=min_tokens), **engine)
    got = attempts(replace(PLAIN, stop=STOPS, min_tokens=min_tokens), **engine)
    for before, after in zip(without, got, strict=True):
        assert (after.response, after.text, after.ended) == expected(before, STOPS, min_tokens)
        assert after.logp == pytest.approx(before.logp[: len(after.response)], abs=1e-9)
        assert all(after.mask)
    assert {"stop_string"} < {r.ended for r in got}  # some end otherwise


def test_the_text_ends_with_the_stop_string_and_the_tokens_stay_whole():
    stop = next(TOKENIZER.decode([i]) for i in WHOLE[0].response if len(TOKENIZER.decode([i]).strip()) > 2).strip()[:2]
    got = [r for r in attempts(replace(PLAIN, stop=(stop,))) if r.ended == "stop_string"]
    read = policy().renderer.text
    assert got and all(r.text.endswith(stop) and r.text.count(stop) == 1 for r in got)
    assert any(len(read(r.response)) > len(r.text) for r in got)


def test_a_stop_string_that_comes_with_the_last_token_is_said():
    whole = WHOLE[0]
    assert whole.ended == "length"
    end = expected(whole, STOPS)[0]
    got = attempts(Sampling(max_tokens=len(end), stop=STOPS))[0]
    assert (got.response, got.ended) == (end, "stop_string")


def test_a_special_token_ends_an_attempt_too():
    subject = policy()
    drawn_id = WHOLE[0].response[3]
    tokenizer = TOKENIZER.__class__(tokenizer_object=TOKENIZER.backend_tokenizer, eos_token=TOKENIZER.eos_token)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<halt>", special=True)]})
    special = tokenizer.convert_tokens_to_ids("<halt>")
    stops = StopStrings(("<halt>",), replace(subject.renderer, tokenizer=tokenizer))
    assert stops.ends((5, special)) and not stops.ends((5, drawn_id))
    assert stops.cut((5, special)) == tokenizer.decode([5])


def test_whoever_reads_no_text_refuses_them():
    sampler = ScriptedSampler({("toy/0", 0): (7, 2)}, end_ids=(2,))
    with pytest.raises(UserError, match="no stop string can be found in it"):
        sampler.generate([Request("toy/0", 0, (3,))], Sampling(max_tokens=4, stop=("a",)), HERE)


@pytest.mark.parametrize("stop", ["</a>", ("a", ""), (1,), ["a"]])
def test_what_is_no_list_of_texts_is_refused(stop):
    with pytest.raises(ValueError, match="stop is a tuple of texts, none of them empty"):
        Sampling(stop=stop)
