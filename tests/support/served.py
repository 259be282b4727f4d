"""A tiny model behind the server, asked without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from asked import Answered, ask_app, asked_app

from upslope.model.policy import Policy
from upslope.rollout.joining import Guest
from upslope.serve.engine import ServingEngine
from upslope.types import Rollout, Sampling

CHAT = [{"role": "user", "content": "Tom has 3 apples."}]


def served_policy() -> Policy:
    return tiny.policy(dtype=torch.float32)


@dataclass(frozen=True)
class Asker:
    """Asks an application."""

    app: Any
    engine: ServingEngine
    policy: Policy

    def post(self, path: str, headers: dict[str, str] | None = None, /, **body: Any) -> Answered:
        return ask_app(self.app, path, method="POST", headers=headers, body=json.dumps(body).encode())

    def chat(self, messages: Any = CHAT, **body: Any) -> Any:
        return self._told("/v1/chat/completions", messages=messages, **body)

    def complete(self, **body: Any) -> Any:
        return self._told("/v1/completions", **body)

    def generate(self, token_ids: Sequence[int], **sampling: Any) -> Any:
        return self._told("/inference/v1/generate", token_ids=list(token_ids), sampling_params=sampling)

    def _told(self, path: str, **body: Any) -> Any:
        found = self.post(path, **body)
        assert found.status == 200, found.body
        return found.told

    def declined(self, path: str, status: int = 400, /, **body: Any) -> dict[str, Any]:
        """The error object of a request that is not served."""
        found = self.post(path, **body)
        assert found.status == status, found.body
        assert set(found.told) == {"error"} and set(found.told["error"]) == {"message", "type", "param", "code"}
        return found.told["error"]

    def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Of a stream that ends as it should."""
        found = self.post(path, stream=True, **body)
        assert found.headers["content-type"].startswith("text/event-stream")
        *lines, last = found.body.decode().strip().split("\n\n")
        assert last == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def all_at_once(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[Any]:
        async def ask() -> list[Answered]:
            asked = (asked_app(self.app, path, method="POST", body=json.dumps(body).encode()) for body in bodies)
            return await asyncio.gather(*asked)

        return [found.told for found in asyncio.run(ask())]


def scored(policy: Policy, prompt: Sequence[int], response: Sequence[int], sampling: Sampling) -> list[float]:
    """As a learner scores it."""
    rollout = Rollout("", 0, tuple(prompt), tuple(response), (True,) * len(response), None, 0, "length", "")
    with torch.no_grad():
        return policy.score([rollout], sampling, len(response))[0][0].tolist()  # type: ignore[no-any-return]


def guest(**sampling: Any) -> Guest:
    return Guest((5, 6), Sampling(**sampling), seed=1, sample=0)
