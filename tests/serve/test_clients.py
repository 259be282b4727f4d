"""Programs that others wrote talk to ``upslope serve``, over real sockets. Each is skipped where it is not installed:
``pip install openai lm-eval[api] inspect-ai renderers`` beside upslope."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import CHAT, scored, served_policy

from upslope.types import Sampling

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their warnings are theirs
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "model"
    served_policy().save(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Ctrl-C ends it in the end, while somebody is being answered."""
    command = [sys.executable, "-m", "upslope.cli", "serve", str(folder), "--name", "tiny", "--dtype", "float32"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/v1", server.stdout.readline())
    assert found is not None
    yield found[0]
    with ThreadPoolExecutor(1) as pool:
        body = {"messages": CHAT, "n": 128, "max_tokens": 240, "min_tokens": 240}
        answer = pool.submit(post, found[0], body)
        post(found[0], {"messages": CHAT, "max_tokens": 20})
        server.send_signal(signal.SIGINT)
        assert answer.result(timeout=60).get("error", {}).get("message") in (None, "the server is closing")
    assert server.wait(timeout=60) == 130


def post(url: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    line = http.client.HTTPConnection(url.removeprefix("http://").removesuffix("/v1"), timeout=120)
    line.request("POST", path, json.dumps(body))
    return json.loads(line.getresponse().read())


def test_sixty_four_sockets_at_once(address: str) -> None:
    bodies = [{"messages": CHAT, "seed": i, "max_tokens": 30} for i in range(64)]
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(lambda body: post(address, body)["choices"][0]["message"], bodies))
    assert found[5] == post(address, bodies[5])["choices"][0]["message"]
    assert len({one["content"] for one in found}) > 50


def test_the_openai_client(address: str) -> None:
    openai = pytest.importorskip("openai", reason="needs openai (pip install openai)")
    client = openai.OpenAI(base_url=address, api_key="none")
    assert [model.id for model in client.models.list()] == ["tiny"]
    how: dict[str, Any] = {"model": "tiny", "messages": CHAT, "max_tokens": 12, "seed": 3, "logprobs": True}
    (choice,) = client.chat.completions.create(**how, extra_body={"return_token_ids": True}).choices
    policy = served_policy()
    expected = scored(policy, policy.renderer.prompt_ids(CHAT), choice.token_ids, Sampling())
    assert [each.logprob for each in choice.logprobs.content] == pytest.approx(expected, abs=1e-4)
    stream = client.chat.completions.create(**how, stream=True)
    assert "".join(event.choices[0].delta.content for event in stream) == choice.message.content
    with pytest.raises(openai.BadRequestError, match="presence_penalty is not supported"):
        client.chat.completions.create(**how, presence_penalty=1)
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5' here"):
        client.chat.completions.create(**how | {"model": "gpt-5"})


def test_lm_eval_scores_answers_and_lets_them_be_written(address: str, folder: Path) -> None:
    models = pytest.importorskip("lm_eval.models.openai_completions", reason="needs lm-eval (pip install lm-eval[api])")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    model = models.LocalCompletionsAPI(
        base_url=f"{address}/completions", model="tiny", tokenizer=str(folder), tokenizer_backend="huggingface",
        num_concurrent=4, max_length=256,
    )  # fmt: skip
    policy = served_policy()
    asked = [("Tom has 3 apples .", " Eva has 4 pens ."), ("Sam has 5", " apples"), ("Leo", " has")]
    found = model.loglikelihood([instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)])
    for (context, answer), (logp, greedy) in zip(asked, found, strict=True):
        before, whole = (policy.renderer.response_ids(text)[:-1] for text in (context, context + answer))
        assert logp == pytest.approx(sum(scored(policy, before, whole[len(before) :], Sampling())), abs=1e-3)
        assert greedy is False
    how = {"until": ["zzz"], "max_gen_toks": 5, "temperature": 0}
    (text,) = model.generate_until([instance("generate_until", {}, ("Tom has 3 apples .", how), 0)])
    body = {"prompt": "Tom has 3 apples .", "temperature": 0, "max_tokens": 5}
    (choice,) = post(address, body, "/v1/completions")["choices"]
    assert text == choice["text"]
    likeliest = ("Tom has 3 apples .", text)
    ((_, greedy),) = model.loglikelihood([instance("loglikelihood", {}, likeliest, 0)])
    assert greedy is True


def test_inspect_ai(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_ai = pytest.importorskip("inspect_ai", reason="needs inspect-ai (pip install inspect-ai openai)")
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    monkeypatch.setenv("UPSLOPE_API_KEY", "none")
    monkeypatch.setenv("UPSLOPE_BASE_URL", address)
    said = post(address, {"messages": CHAT, "temperature": 0, "max_tokens": 6})["choices"][0]["message"]["content"]
    samples = [Sample(input=CHAT[0]["content"], target=said), Sample(input="Eva has 4 pens.", target="never said")]
    task = inspect_ai.Task(dataset=samples, solver=generate(), scorer=includes())
    (log,) = inspect_ai.eval(
        task, model="openai-api/upslope/tiny", temperature=0, max_tokens=6, log_dir=str(tmp_path), display="none"
    )
    assert log.status == "success"
    assert log.results.scores[0].metrics["accuracy"].value == 0.5
    assert log.samples[0].output.completion.strip() == said.strip()
    gc.collect()  # what it leaves open is said now, and is its own


def test_the_client_of_verifiers(address: str) -> None:
    """``renderers`` asks for tokens on behalf of verifiers 0.4 and prime-rl, and is strict about what it is told."""
    client = pytest.importorskip("renderers.client", reason="needs renderers (pip install renderers)")
    openai = pytest.importorskip("openai")
    policy = served_policy()
    prompt = list(policy.renderer.prompt_ids(CHAT))

    class Parsed:
        content, reasoning_content, tool_calls, reasoning_complete = "", None, (), True

    class Renderer:
        supports_tools = True

        def get_stop_token_ids(self) -> list[int]:
            return list(policy.end_ids)

        def parse_response(self, ids: list[int], **_: Any) -> Parsed:
            return Parsed()

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=address, api_key="none") as line:
            how = {"temperature": 1.0, "max_tokens": 9, "seed": 4, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
            return await client.generate(
                client=line, renderer=Renderer(), messages=CHAT, model="tiny", prompt_ids=prompt, sampling_params=how
            )

    found = asyncio.run(ask())
    expected = scored(policy, prompt, found["completion_ids"], Sampling())
    assert found["prompt_ids"] == prompt
    assert found["completion_logprobs"] == pytest.approx(expected, abs=1e-4)


def test_verifiers_asks_for_tokens(address: str, folder: Path) -> None:
    """The client with which verifiers 0.4 trains, whole: it renders the chat with the model's own tokenizer."""
    train = pytest.importorskip("verifiers.v1.clients.train", reason="needs verifiers 0.4 (pip install verifiers)")
    from renderers.configs import DefaultRendererConfig
    from verifiers.v1.configs.client import TrainClientConfig
    from verifiers.v1.dialects.chat import ChatDialect
    from verifiers.v1.types import SamplingConfig

    policy = served_policy()
    config = TrainClientConfig(
        base_url=address, api_key_var="NONE", renderer=DefaultRendererConfig(), renderer_model_name=str(folder)
    )

    async def ask() -> Any:
        client = train.TrainClient(config)
        try:
            sampling = SamplingConfig(temperature=1.0, max_tokens=9, seed=4, top_k=-1, min_p=0.0, cache_salt="7")
            return await client.get_response(ChatDialect(), {"model": "tiny", "messages": CHAT}, sampling)
        finally:
            await client.close()

    tokens = asyncio.run(ask()).tokens
    assert tuple(tokens.prompt_ids) == policy.renderer.prompt_ids(CHAT)
    expected = scored(policy, tokens.prompt_ids, tokens.completion_ids, Sampling())
    assert tokens.completion_logprobs == pytest.approx(expected, abs=1e-4)
