"""A client gets what the model says: the same tokens and log-probabilities, whatever the way of asking."""

from __future__ import annotations

import math
from typing import Any

import pytest
from asked import ask_app
from served import CHAT, Asker, scored

from upslope.serve.app import Service, serving
from upslope.types import Sampling

ONE = "/v1/chat/completions"
TEXT = "/v1/completions"
TOKENS = "/inference/v1/generate"


@pytest.fixture(scope="module")
def prompt(asker: Asker) -> list[int]:
    return list(asker.policy.renderer.prompt_ids(CHAT))


def test_the_models(asker: Asker) -> None:
    (card,) = ask_app(asker.app, "/v1/models").told["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 256)
    assert ask_app(asker.app, "/v1/models/tiny").told == card
    assert ask_app(asker.app, "/v1/models/other").status == 404
    assert ask_app(asker.app, "/health").told == {"status": "ok"}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_log_probabilities_are_the_learners(asker: Asker, prompt: list[int], temperature: float) -> None:
    how = {"temperature": temperature, "seed": 3, "max_tokens": 20}
    found = asker.chat(**how, logprobs=True, top_logprobs=2, return_token_ids=True)
    (choice,) = found["choices"]
    content = choice["logprobs"]["content"]
    expected = scored(asker.policy, prompt, choice["token_ids"], Sampling(temperature or 1.0))
    assert [each["logprob"] for each in content] == pytest.approx(expected, abs=1e-4)
    assert found["prompt_token_ids"] == prompt
    assert found["usage"] == {
        "prompt_tokens": len(prompt), "completion_tokens": len(expected), "total_tokens": len(prompt) + len(expected)
    }  # fmt: skip
    for each in content:
        first, second = (top["logprob"] for top in each["top_logprobs"])
        assert first >= second and first >= each["logprob"]
        assert temperature or each["logprob"] == first
        assert bytes(each["bytes"]).decode() == each["token"]
    assert choice["message"]["content"] == asker.policy.renderer.text(choice["token_ids"])


def test_every_way_of_asking_writes_the_same(asker: Asker, prompt: list[int]) -> None:
    """A seed says every draw: by chat, by tokens as a completion, by tokens, and in a stream of each."""
    how = {"seed": 11, "max_tokens": 24, "temperature": 0.9, "n": 3}
    chats = asker.chat(**how, logprobs=True, return_token_ids=True)["choices"]
    expected = [choice["token_ids"] for choice in chats]
    assert len({tuple(ids) for ids in expected}) == 3
    assert [c["token_ids"] for c in asker.generate(prompt, **how, logprobs=0)["choices"]] == expected
    texts = asker.complete(prompt=prompt, **how, logprobs=0, return_token_ids=True)["choices"]
    assert [c["token_ids"] for c in texts] == expected
    assert [c["text"] for c in texts] == [c["message"]["content"] for c in chats]
    for path, body in ((ONE, {"messages": CHAT, "logprobs": True}), (TEXT, {"prompt": prompt, "logprobs": 0})):
        streamed: list[dict[str, Any]] = [{"text": "", "ids": [], "logps": [], "ended": None} for _ in range(3)]
        for event in asker.events(path, **body, **how, return_token_ids=True):
            for choice in event["choices"]:
                one = streamed[choice["index"]]
                assert one["ended"] is None
                one["text"] += choice["delta"]["content"] if path == ONE else choice["text"]
                one["ids"] += choice.get("token_ids", [])
                one["ended"] = choice["finish_reason"]
                logprobs = choice["logprobs"] or {}
                one["logps"] += [e["logprob"] for e in logprobs.get("content", ())] + logprobs.get("token_logprobs", [])
        assert [one["ids"] for one in streamed] == expected
        assert [one["text"] for one in streamed] == [c["text"] for c in texts]
        assert [one["ended"] for one in streamed] == [c["finish_reason"] for c in texts]
        assert [one["logps"] for one in streamed] == [
            pytest.approx(c["logprobs"]["token_logprobs"], abs=1e-5) for c in texts
        ]


def test_a_stream_says_its_usage_when_asked(asker: Asker, prompt: list[int]) -> None:
    *events, last = asker.events(ONE, messages=CHAT, max_tokens=5, stream_options={"include_usage": True})
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == [] and last["usage"]["prompt_tokens"] == len(prompt)
    assert "usage" not in asker.events(ONE, messages=CHAT, max_tokens=5)[-1]


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_a_prompt_is_scored_with_echo(asker: Asker, max_tokens: int) -> None:
    """As evaluation harnesses score answers: several prompts, the first token without a score."""
    prompts = [[9, 30, 4, 17, 40], [7], [12, 5, 40]]
    found = asker.complete(prompt=prompts, echo=True, logprobs=2, max_tokens=max_tokens, temperature=0)["choices"]
    for ids, choice in zip(prompts, found, strict=True):
        told = choice["logprobs"]
        expected = scored(asker.policy, ids[:1], ids[1:], Sampling()) if ids[1:] else []
        assert told["token_logprobs"][0] is None and told["top_logprobs"][0] is None
        assert told["token_logprobs"][1 : len(ids)] == pytest.approx(expected, abs=1e-4)
        assert (
            len(told["tokens"]) == len(told["text_offset"]) == len(ids) + max_tokens
            or choice["finish_reason"] == "stop"
        )
        for own, tops in list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))[1:]:
            assert own in tops.values() and 2 <= len(tops) <= 3
        for own, tops in list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))[len(ids) :]:
            assert own == max(tops.values())  # greedy: how a harness sees that an answer is the likeliest
        assert choice["text"].startswith(asker.policy.renderer.text(ids))
    alone = asker.complete(prompt=prompts[0], echo=True, logprobs=2, max_tokens=max_tokens, temperature=0)["choices"][0]
    assert alone["logprobs"]["token_logprobs"][1:] == pytest.approx(
        found[0]["logprobs"]["token_logprobs"][1:], abs=1e-5
    )


def test_a_text_is_read_as_its_tokens(asker: Asker) -> None:
    ids = list(asker.policy.renderer.response_ids("Tom has 3 apples.")[:-1])
    how = {"seed": 5, "max_tokens": 6, "logprobs": 0}
    by_text, by_ids = (asker.complete(prompt=p, **how)["choices"][0] for p in ("Tom has 3 apples.", ids))
    assert by_text == by_ids
    assert asker.complete(prompt="", max_tokens=2)["usage"]["prompt_tokens"] == 1


def test_a_stop_cuts_the_text_before_it(asker: Asker) -> None:
    how = {"seed": 11, "max_tokens": 40, "temperature": 0.9}
    whole = asker.chat(**how)["choices"][0]["message"]["content"]
    words = whole.split()
    assert len(words) > 4
    for stop in (words[3], whole[9:14]):
        before = whole.partition(stop)[0]
        (choice,) = asker.chat(**how, stop=[stop, "never said"])["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (before, "stop")
        events = asker.events(ONE, messages=CHAT, **how, stop=stop)
        assert "".join(c["delta"]["content"] for e in events for c in e["choices"]) == before
        assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stop_token_ends_it_and_is_told(asker: Asker, prompt: list[int]) -> None:
    (whole,) = asker.generate(prompt, seed=11, max_tokens=12, logprobs=1)["choices"]
    stop = whole["token_ids"][4]
    first = whole["token_ids"].index(stop)
    (choice,) = asker.generate(prompt, seed=11, max_tokens=12, logprobs=1, stop_token_ids=[stop])["choices"]
    assert choice["token_ids"] == whole["token_ids"][: first + 1] and choice["finish_reason"] == "stop"
    assert [e["token"] for e in choice["logprobs"]["content"]] == [f"token_id:{i}" for i in choice["token_ids"]]


def test_sixty_four_at_once_are_written_as_if_alone(asker: Asker) -> None:
    bodies = [
        {
            "messages": CHAT,
            "seed": i,
            "max_tokens": 4 + i % 13,
            "temperature": (1.0, 0.7)[i % 2],
            "logprobs": i % 3 == 0,
        }
        for i in range(64)
    ]
    together = asker.all_at_once(ONE, bodies)
    for i in range(0, 64, 9):
        alone = asker.chat(**{k: v for k, v in bodies[i].items() if k != "messages"})
        assert together[i]["choices"][0]["message"] == alone["choices"][0]["message"]
        assert together[i]["usage"] == alone["usage"]
    assert len({found["choices"][0]["message"]["content"] for found in together}) > 50


def test_parts_of_text_are_one_text(asker: Asker) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Tom has "}, {"type": "text", "text": "3 apples."}]}]
    assert (
        asker.chat(parts, temperature=0, max_tokens=6)["choices"] == asker.chat(temperature=0, max_tokens=6)["choices"]
    )


def test_options_of_the_distribution_take_effect(asker: Asker, prompt: list[int]) -> None:
    def distinct(**how: Any) -> int:
        firsts = asker.generate(prompt, n=60, max_tokens=1, seed=1, **how)["choices"]
        return len({c["token_ids"][0] for c in firsts})

    assert distinct() > 6
    assert distinct(top_k=2) == 2 and distinct(top_k=-1) == distinct()
    assert distinct(top_p=0.05) <= 2
    assert distinct(temperature=0) == 1
    assert distinct(temperature=2.0) > distinct(temperature=0.5)
    ends = asker.policy.end_ids
    told = asker.generate(prompt, n=40, max_tokens=6, min_tokens=6, seed=2)["choices"]
    assert not any(set(c["token_ids"][:-1]) & set(ends) for c in told)
    assert any(set(c["token_ids"][:-1]) & set(ends) or len(c["token_ids"]) < 6
               for c in asker.generate(prompt, n=40, max_tokens=6, seed=2)["choices"])  # fmt: skip


def test_without_a_seed_every_answer_is_another(asker: Asker) -> None:
    assert len({asker.chat(max_tokens=12)["choices"][0]["message"]["content"] for _ in range(4)}) > 1


def test_an_answer_without_a_length_is_as_long_as_there_is_room(asker: Asker) -> None:
    with serving(asker.policy, Service("tiny", max_tokens=7)) as (app, engine):
        found = Asker(app, engine, asker.policy).chat(seed=11)
        assert found["usage"]["completion_tokens"] <= 7
        long = [{"role": "user", "content": "pens " * 250}]
        room = 256 - len(asker.policy.renderer.prompt_ids(long))
        assert 0 < room < 7
        assert Asker(app, engine, asker.policy).chat(long, seed=1)["usage"]["completion_tokens"] <= room


def test_what_json_cannot_say_is_said_otherwise(asker: Asker, prompt: list[int]) -> None:
    """A token that top-k leaves out has log-probability -inf."""
    (choice,) = asker.generate(prompt, top_k=1, max_tokens=1, logprobs=3)["choices"]
    tops = [top["logprob"] for top in choice["logprobs"]["content"][0]["top_logprobs"]]
    assert math.isclose(tops[0], 0.0, abs_tol=1e-6) and tops[1:] == [-9999.0, -9999.0]
