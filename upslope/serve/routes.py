"""What can be asked: the models, a chat, a completion, tokens for tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from upslope.model.policy import Policy
from upslope.rollout.joining import Guest, TokenTold
from upslope.serve import options
from upslope.serve.answers import (
    DONE,
    chat_logprobs,
    event,
    generated_choice,
    head,
    legacy_logprobs,
    usage,
)
from upslope.serve.engine import Said, ServingEngine
from upslope.serve.faults import faultless, told_of_fault
from upslope.serve.guard import body_of
from upslope.serve.options import Declined, Ordered, checked
from upslope.serve.talk import Talk, Whole, guests_of, unless_gone
from upslope.serve.words import Words

SHORT = 16
"""Tokens of a completion of which no length was asked: OpenAI's number."""
Choice = Callable[[int, Said], dict[str, Any]]


@dataclass(frozen=True)
class Served:
    """A policy that answers."""

    name: str
    policy: Policy
    engine: ServingEngine
    words: Words
    max_tokens: int
    """The longest answer in a chat of which no length was asked."""
    since: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", faultless(self.model)),
            Route("/v1/chat/completions", faultless(self.chat), methods=["POST"]),
            Route("/v1/completions", faultless(self.completion), methods=["POST"]),
            Route("/inference/v1/generate", faultless(self.generate), methods=["POST"]),
        ]

    async def health(self, request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._card]})

    async def model(self, request: HttpRequest) -> Response:
        self._require_model(request.path_params["name"])
        return JSONResponse(self._card)

    async def chat(self, request: HttpRequest) -> Response:
        given = checked(await body_of(request), options.CHAT)
        self._require_model(given.get("model"))
        num_top = given.get("top_logprobs", 0)
        if num_top and not given.get("logprobs"):
            raise Declined("top_logprobs needs logprobs = true", "top_logprobs")
        if given.get("max_tokens") == 0:
            raise Declined("max_tokens must be at least 1 in a chat", "max_tokens")
        asked = Ordered.of(given, None)
        prompt = self.words.chat(given.get("messages"), given.get("chat_template_kwargs", {}))
        guests = guests_of(self.policy, [prompt], asked, num_top, self.max_tokens)

        def logprobs(told: Sequence[TokenTold]) -> dict[str, Any] | None:
            return chat_logprobs(told, self.words) if given.get("logprobs") else None

        if given.get("stream"):
            begun = head("chat.completion.chunk", "chatcmpl", self.name)

            def piece(place: int, what: Said) -> dict[str, Any]:
                made = {"index": place, "delta": {"content": what.text}, "finish_reason": what.ended}
                return made | {"logprobs": logprobs(what.tokens)} | self._ids(given, what.tokens)

            first = [
                {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                for i in range(len(guests))
            ]
            return self._stream(begun, first, piece, guests, asked, len(prompt))
        wholes = await unless_gone(request, Talk(self.engine).written(guests, asked))
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", "content": whole.text, "refusal": None},
                "logprobs": logprobs(whole.tokens),
                "finish_reason": whole.ended,
            }
            | self._ids(given, whole.tokens)
            for place, whole in enumerate(wholes)
        ]
        made = head("chat.completion", "chatcmpl", self.name) | {"choices": choices}
        made |= {"usage": usage(len(prompt), sum(len(whole.tokens) for whole in wholes))}
        return JSONResponse(made | ({"prompt_token_ids": prompt} if given.get("return_token_ids") else {}))

    async def completion(self, request: HttpRequest) -> Response:
        given = checked(await body_of(request), options.COMPLETION)
        self._require_model(given.get("model"))
        if "prompt" not in given:
            raise Declined("prompt is missing", "prompt")
        asked, num_top, echo = Ordered.of(given, SHORT), given.get("logprobs", 0), bool(given.get("echo"))
        if asked.max_tokens == 0 and not echo:
            raise Declined("max_tokens = 0 writes nothing; give echo = true to have the prompt scored", "max_tokens")
        prompts = self.words.prompts(given["prompt"])
        guests = guests_of(self.policy, prompts, asked, num_top, self.max_tokens)
        num_prompt = sum(map(len, prompts))
        if given.get("stream"):
            if echo:
                raise Declined("echo is not supported in a stream; leave one of them out", "echo")
            begun, starts = head("text_completion", "cmpl", self.name), [0] * len(guests)

            def piece(place: int, what: Said) -> dict[str, Any]:
                made = {"index": place, "text": what.text, "finish_reason": what.ended, "logprobs": None}
                if "logprobs" in given:
                    told = legacy_logprobs(what.tokens, num_top, self.words, starts[place])
                    starts[place] += sum(map(len, told["tokens"]))
                    made["logprobs"] = told
                return made | self._ids(given, what.tokens)

            return self._stream(begun, [], piece, guests, asked, num_prompt)
        wholes = await unless_gone(request, Talk(self.engine).written(guests, asked)) if guests else []
        wholes = wholes or [Whole("", (), "length")] * (len(prompts) * asked.num)
        read: Sequence[Sequence[TokenTold]] = [()] * len(prompts)
        if echo and "logprobs" in given:
            read = await unless_gone(request, Talk(self.engine).read(prompts, num_top))
        choices = []
        for place, whole in enumerate(wholes):
            prompt, scored = prompts[place // asked.num], read[place // asked.num]
            text, told = whole.text, [*whole.tokens]
            if echo:
                text = self.words.text(prompt) + text
                told = [prompt[0], *scored, *told]  # type: ignore[list-item]
            logprobs = legacy_logprobs(told, num_top, self.words) if "logprobs" in given else None
            made = {"index": place, "text": text, "logprobs": logprobs, "finish_reason": whole.ended}
            choices.append(made | self._ids(given, whole.tokens, prompt))
        made = head("text_completion", "cmpl", self.name) | {"choices": choices}
        return JSONResponse(made | {"usage": usage(num_prompt, sum(len(whole.tokens) for whole in wholes))})

    async def generate(self, request: HttpRequest) -> Response:
        given = checked(await body_of(request), options.GENERATE)
        self._require_model(given.get("model"))
        how = checked(given.get("sampling_params", {}), options.GENERATED)
        if "token_ids" not in given:
            raise Declined("token_ids is missing", "token_ids")
        if how.get("max_tokens") == 0:
            raise Declined("max_tokens must be at least 1", "max_tokens")
        asked, prompt = Ordered.of(how, SHORT), self.words.known(given["token_ids"], "token_ids")
        ends = frozenset(how.get("stop_token_ids", ()))
        guests = guests_of(self.policy, [prompt], asked, how.get("logprobs", 0), self.max_tokens, ends)
        wholes = await unless_gone(request, Talk(self.engine).written(guests, asked))
        choices = [
            generated_choice(place, whole, with_logprobs="logprobs" in how) for place, whole in enumerate(wholes)
        ]
        name = given.get("request_id") or head("", "generate", "")["id"]
        made = {"request_id": name, "choices": choices, "prompt_logprobs": None}
        return JSONResponse(made | {"usage": usage(len(prompt), sum(len(whole.tokens) for whole in wholes))})

    def _stream(
        self,
        begun: dict[str, Any],
        first: Sequence[dict[str, Any]],
        choice: Choice,
        guests: Sequence[Guest],
        asked: Ordered,
        num_prompt: int,
    ) -> Response:
        counted = asked.options.get("stream_options", {}).get("include_usage", False)
        none: dict[str, Any] = {"usage": None} if counted else {}

        async def lines() -> AsyncIterator[bytes]:
            num_written = 0
            try:
                for each in first:
                    yield event(begun | {"choices": [each]} | none)
                async for place, piece in Talk(self.engine).pieces(guests, asked, streamed=True):
                    num_written += len(piece.tokens)
                    yield event(begun | {"choices": [choice(place, piece)]} | none)
            except Exception as error:  # the answer has begun, so it is told within it
                yield event(told_of_fault(error).told())
                return
            if counted:
                yield event(begun | {"choices": [], "usage": usage(num_prompt, num_written)})
            yield DONE

        return StreamingResponse(lines(), media_type="text/event-stream")

    def _ids(self, given: dict[str, Any], told: Sequence[TokenTold], prompt: Sequence[int] = ()) -> dict[str, Any]:
        if not given.get("return_token_ids"):
            return {}
        return {"token_ids": [t.id for t in told]} | ({"prompt_token_ids": list(prompt)} if prompt else {})

    def _require_model(self, name: str | None) -> None:
        """A request need not name the model; one that names another is for another server."""
        if name is not None and name != self.name:
            raise Declined(
                f"there is no model {name!r:.200} here; this is {self.name!r}",
                "model",
                code="model_not_found",
                status=404,
            )

    @property
    def _card(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": "model",
            "created": self.since,
            "owned_by": "upslope",
            "max_model_len": self.policy.max_positions,
        }
