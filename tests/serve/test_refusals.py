"""What is not served is refused, with OpenAI's error object; nothing is accepted and ignored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch
from asked import PORT, ask_app, asked_app
from served import CHAT, Asker, served_policy

from upslope.errors import UserError
from upslope.serve.app import Service, serving
from upslope.serve.options import CHAT as CHAT_OPTIONS, COMPLETION, GENERATED, NEUTRAL

ONE = "/v1/chat/completions"
TEXT = "/v1/completions"
TOKENS = "/inference/v1/generate"


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (ONE, {"messages": CHAT, "tempreature": 1}, "tempreature", "did you mean 'temperature'?"),
        (ONE, {"messages": CHAT, "temperature": -1}, "temperature", "from 0 to 2, not -1"),
        (ONE, {"messages": CHAT, "temperature": "hot"}, "temperature", "must be a number"),
        (ONE, {"messages": CHAT, "temperature": True}, "temperature", "must be a number"),
        (ONE, {"messages": CHAT, "temperature": float("nan")}, "temperature", "must be a number"),
        (ONE, {"messages": CHAT, "top_p": 0}, "top_p", "must be a number"),
        (ONE, {"messages": CHAT, "n": 0}, "n", "from 1 to 128"),
        (ONE, {"messages": CHAT, "n": 1.5}, "n", "whole number"),
        (ONE, {"messages": CHAT, "max_tokens": 0}, "max_tokens", "at least 1"),
        (ONE, {"messages": CHAT, "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "differ"),
        (ONE, {"messages": CHAT, "max_tokens": 300}, "max_tokens", "do not fit the model's 256 positions"),
        (ONE, {"messages": CHAT, "min_tokens": 9, "max_tokens": 4}, "min_tokens", "is more than"),
        (ONE, {"messages": CHAT, "top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        (ONE, {"messages": CHAT, "logprobs": 2}, "logprobs", "true or false"),
        (ONE, {"messages": CHAT, "stop": [""]}, "stop", "none of them empty"),
        (ONE, {"messages": CHAT, "stop": 3}, "stop", "a text or a list"),
        (ONE, {"messages": CHAT, "stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
        (ONE, {"messages": CHAT, "stream": True, "stream_options": {"x": 1}}, "stream_options", "no option 'x'"),
        (ONE, {"messages": CHAT, "frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        (ONE, {"messages": CHAT, "tools": [{"type": "function"}]}, "tools", "not supported"),
        (ONE, {"messages": CHAT, "response_format": {"type": "json_object"}}, "response_format", "not supported"),
        (ONE, {"messages": CHAT, "logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        (ONE, {"messages": CHAT, "store": 0}, "store", "not supported"),
        (ONE, {"messages": CHAT, "chat_template_kwargs": {"tokenize": True}}, "messages", "cannot set 'tokenize'"),
        (ONE, {}, "messages", "must be a non-empty list"),
        (ONE, {"messages": []}, "messages", "must be a non-empty list"),
        (ONE, {"messages": "hi"}, "messages", "must be a non-empty list"),
        (ONE, {"messages": [{"role": "boss", "content": "hi"}]}, "messages", "'boss'"),
        (ONE, {"messages": [{"role": "user", "content": 3}]}, "messages", "must be text"),
        (ONE, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "'image_url'"),
        (TEXT, {}, "prompt", "missing"),
        (TEXT, {"prompt": []}, "prompt", "must be a text"),
        (TEXT, {"prompt": [[]]}, "prompt", "no tokens"),
        (TEXT, {"prompt": [5, "a"]}, "prompt", "must be a text"),
        (TEXT, {"prompt": [5, 100_000]}, "prompt", "token 100000 is not among the model's"),
        (TEXT, {"prompt": [-1]}, "prompt", "token -1"),
        (TEXT, {"prompt": "a", "max_tokens": 0}, "max_tokens", "writes nothing"),
        (TEXT, {"prompt": "a", "logprobs": True}, "logprobs", "whole number"),
        (TEXT, {"prompt": "a", "logprobs": 21}, "logprobs", "from 0 to 20"),
        (TEXT, {"prompt": "a", "echo": True, "stream": True}, "echo", "not supported in a stream"),
        (TEXT, {"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
        (TEXT, {"prompt": "a", "best_of": 2}, "best_of", "not supported"),
        (TOKENS, {"sampling_params": {}}, "token_ids", "missing"),
        (TOKENS, {"token_ids": [5.0]}, "token_ids", "list of token ids"),
        (TOKENS, {"token_ids": [5], "sampling_params": {"min_p": 0.1}}, "min_p", "not supported"),
        (TOKENS, {"token_ids": [5], "features": {}}, "features", "there is no option 'features'"),
        (TOKENS, {"token_ids": [5], "stream": True}, "stream", "not supported"),
    ],
)
def test_it_is_refused_by_name(asker: Asker, path: str, body: dict[str, Any], param: str, message: str) -> None:
    error = asker.declined(path, **body)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"] and "\n" not in error["message"]


def test_another_model_is_not_this_one(asker: Asker) -> None:
    for path, body in ((ONE, {"messages": CHAT}), (TEXT, {"prompt": "a"}), (TOKENS, {"token_ids": [5]})):
        assert asker.declined(path, 404, model="gpt-5", **body)["code"] == "model_not_found"
        assert asker.post(path, model="tiny", **body).status == 200


def test_what_changes_nothing_is_taken(asker: Asker) -> None:
    """Clients send these unasked."""
    expected = asker.chat(temperature=0, max_tokens=4)["choices"]
    for name, values in NEUTRAL.items():
        for value in (*values, None):
            assert (
                asker.chat(temperature=0, max_tokens=4, **{name: value} if name != "stream" else {})["choices"]
                == expected
            )


def test_an_option_is_known_or_neutral_but_not_both() -> None:
    for known in (CHAT_OPTIONS, COMPLETION):
        assert set(known) & set(NEUTRAL) == {"stream"}
    assert not set(GENERATED) & set(NEUTRAL)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"prompt": "\\ud800"}', "half a character"),
        (b"\xff", "no JSON"),
    ],
)
def test_a_body_that_is_none(asker: Asker, body: bytes, message: str) -> None:
    found = ask_app(asker.app, TEXT, method="POST", body=body)
    assert found.status == 400
    assert message in found.told["error"]["message"]


def test_a_body_that_is_too_long(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.serve.guard.MOST_BYTES", 100)
    assert asker.declined(TEXT, 413, prompt="a" * 200)


def test_what_is_not_there_is_said_in_the_same_shape(asker: Asker) -> None:
    assert ask_app(asker.app, "/v1/nothing").told["error"]["message"] == "Not Found"
    found = ask_app(asker.app, ONE)
    assert found.status == 405 and found.told["error"]["message"] == "Method Not Allowed"


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "evil.example:8000"}, {"host": ""},
                                     {"origin": "http://evil.example"}, {"origin": "null"}])  # fmt: skip
def test_no_web_page_asks_here(asker: Asker, headers: dict[str, str]) -> None:
    assert ask_app(asker.app, "/v1/models", headers=headers).status == 403
    for fine in ({"host": f"localhost:{PORT}"}, {"host": "[::1]:1"}, {"origin": "http://localhost:3000"}):
        assert ask_app(asker.app, "/v1/models", headers=fine).status == 200


def test_only_who_has_the_key_is_served(asker: Asker) -> None:
    with serving(asker.policy, Service("tiny", key="sesame")) as (app, _):
        for given in ("", "Bearer ", "Bearer sesam", "Bearer sesame2", "Basic sesame"):
            found = ask_app(app, "/v1/models", headers={"authorization": given})
            assert (found.status, found.told["error"]["code"]) == (401, "invalid_api_key")
        assert ask_app(app, "/v1/models", headers={"authorization": "Bearer sesame"}).status == 200


def test_nobody_opens_a_server_to_everybody() -> None:
    with pytest.raises(UserError, match=r"on 0\.0\.0\.0 everybody in the network .* give --api-key"):
        Service("tiny", host="0.0.0.0").require_safe()
    Service("tiny", host="0.0.0.0", key="sesame").require_safe()
    Service("tiny", host="::1").require_safe()


def test_whoever_hangs_up_is_written_no_further(asker: Asker) -> None:
    """Streamed or not; whoever waits for a row then gets none."""
    for streamed in (False, True):
        body = {"messages": CHAT, "n": 100, "max_tokens": 240, "min_tokens": 240, "stream": streamed}
        seats: list[Any] = []

        async def leave(body: dict[str, Any] = body, seats: list[Any] = seats) -> None:
            leaves = asyncio.Event()
            asked = asked_app(asker.app, ONE, method="POST", body=json.dumps(body).encode(), leaves=leaves)
            task = asyncio.ensure_future(asked)
            while not asker.engine._written:
                await asyncio.sleep(0.001)
            seats += asker.engine._written
            leaves.set()
            await asyncio.wait({task})
            task.exception()

        asyncio.run(leave())
        assert asker.chat(max_tokens=3)["choices"]  # whose turn comes after theirs
        assert not asker.engine._written and len(seats) == 64
        assert all(seat.num_tokens < 240 for seat in seats)


def test_a_model_that_is_not_finite_is_said_and_the_server_goes_on(asker: Asker) -> None:
    weight = next(iter(asker.policy.weights().values()))
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        error = asker.declined(ONE, 500, messages=CHAT, max_tokens=3)
        assert error["type"] == "server_error" and "not finite" in error["message"]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert asker.chat(max_tokens=3)["choices"]


def test_a_defect_is_told_as_one(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr("upslope.serve.engine.read_texts", broken)
        error = asker.declined(TEXT, 500, prompt=[5, 6], echo=True, logprobs=1, max_tokens=0)
    assert error["message"] == "the server failed: KeyError"
    assert "a defect" in capsys.readouterr().err
    assert asker.complete(prompt=[5, 6], echo=True, logprobs=1, max_tokens=0)["choices"]


def test_a_queue_that_is_full_says_so(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.serve.talk.MOST_WAITING", 3)
    assert asker.declined(TEXT, 429, prompt="a", n=4)["type"] == "rate_limit_error"
    assert asker.complete(prompt="a", n=3)["choices"]


def test_a_server_that_closes_leaves_nobody_waiting() -> None:
    policy = served_policy()
    with serving(policy, Service("tiny", max_rows=2)) as (app, engine):
        body = {"messages": CHAT, "n": 4, "max_tokens": 200, "min_tokens": 200}

        async def ask() -> Any:
            asked = asyncio.ensure_future(asked_app(app, ONE, method="POST", body=json.dumps(body).encode()))
            while not engine._written:
                await asyncio.sleep(0.001)
            engine.close()
            return await asked

        found = asyncio.run(ask())
        assert (found.status, found.told["error"]["message"]) == (503, "the server is closing")
        assert Asker(app, engine, policy).declined(ONE, 503, messages=CHAT)["message"] == "the server is closing"
