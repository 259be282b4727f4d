"""Answers in the shapes of OpenAI's interface, and, for tokens, of vLLM's."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from upslope.rollout.joining import TokenTold
from upslope.serve.talk import Whole
from upslope.serve.words import Words

LEAST = -9999.0
"""Stands for -inf, which JSON cannot say: OpenAI's number."""
DONE = b"data: [DONE]\n\n"


def head(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """How every answer begins."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
    }


def usage(num_prompt: int, num_written: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_written,
        "total_tokens": num_prompt + num_written,
    }


def event(what: dict[str, Any]) -> bytes:
    """A line of a stream."""
    return f"data: {json.dumps(what, ensure_ascii=False)}\n\n".encode()


def speakable(logp: float) -> float:
    return logp if math.isfinite(logp) else LEAST


def chat_logprobs(told: Sequence[TokenTold], words: Words) -> dict[str, Any]:
    """Of every token, ends included: their sum is log p of the response."""

    def one(token: int, logp: float) -> dict[str, Any]:
        spelled = words.spelled(token)
        return {"token": spelled, "logprob": speakable(logp), "bytes": spelled_bytes(spelled)}

    content = [one(t.id, t.logp) | {"top_logprobs": [one(*pair) for pair in t.top]} for t in told]
    return {"content": content, "refusal": None}


def spelled_bytes(spelled: str) -> list[int] | None:
    """None for a token that is no text by itself."""
    return None if spelled.startswith("token_id:") else list(spelled.encode())


def legacy_logprobs(told: Sequence[TokenTold | int], num_top: int, words: Words, start: int = 0) -> dict[str, Any]:
    """Lists, one place a token; of a bare token (the first of a text) nothing is known. With tops, the token itself is
    among them whatever its place, as OpenAI has it."""
    spelled = [words.spelled(t if isinstance(t, int) else t.id) for t in told]
    offsets = [start]
    for text in spelled:
        offsets.append(offsets[-1] + len(text))
    tops: list[dict[str, float] | None] = []
    for each, text in zip(told, spelled, strict=True):
        if isinstance(each, int):
            tops.append(None)
            continue
        found: dict[str, float] = {}
        for token, logp in each.top:
            found.setdefault(words.spelled(token), speakable(logp))  # of two that are spelled alike the likelier one
        found.setdefault(text, speakable(each.logp))
        tops.append(found)
    return {
        "tokens": spelled,
        "token_logprobs": [None if isinstance(t, int) else speakable(t.logp) for t in told],
        "top_logprobs": tops if num_top else None,
        "text_offset": offsets[:-1],
    }


def generated_choice(place: int, whole: Whole, *, with_logprobs: bool) -> dict[str, Any]:
    """Tokens by their numbers, as vLLM's ``/inference/v1/generate`` tells them."""

    def one(token: int, logp: float) -> dict[str, Any]:
        return {"token": f"token_id:{token}", "logprob": speakable(logp), "bytes": None}

    content = [one(t.id, t.logp) | {"top_logprobs": [one(*pair) for pair in t.top]} for t in whole.tokens]
    return {
        "index": place,
        "token_ids": [t.id for t in whole.tokens],
        "logprobs": {"content": content} if with_logprobs else None,
        "finish_reason": whole.ended,
    }
