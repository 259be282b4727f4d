"""Clients of verifiers' that say what is written elsewhere."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any


@functools.cache
def spoken_client() -> Any:
    """The class: made once it is needed, so that nothing is loaded before. Called with a text, it answers with that,
    whatever it is asked."""
    from verifiers.clients import Client
    from verifiers.types import Response, ResponseMessage

    class Spoken(Client):  # type: ignore[misc]
        def __init__(self, text: str) -> None:
            super().__init__(None)
            self._text = text

        async def get_native_response(self, *asked: Any, **more: Any) -> Any:
            return self._text

        async def from_native_response(self, response: Any) -> Any:
            message = ResponseMessage(content=response, finish_reason="stop", is_truncated=False)
            return Response(id="upslope", created=0, model="upslope", message=message)

        async def raise_from_native_response(self, response: Any) -> None:
            return

        async def to_native_prompt(self, messages: Any) -> Any:
            return messages, {}

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        def setup_client(self, config: Any) -> Any:
            return None

        async def close(self) -> None:
            return

    return Spoken


@functools.cache
def turns_client() -> Any:
    """The class of one that asks for every turn. Called with a function, it hands that every prompt, and waits for the
    future that it returns: of (content, calls as (id, name, arguments), whether it was cut), or None, which ends the
    rollout as a prompt that is too long does."""
    from verifiers.errors import OverlongPromptError
    from verifiers.types import Response, ResponseMessage, ToolCall

    class Turns(spoken_client()):  # type: ignore[misc]
        def __init__(self, ask: Callable[[Any], Any]) -> None:
            super().__init__("")
            self._ask = ask

        async def get_native_response(self, prompt: Any, *asked: Any, **more: Any) -> Any:
            turn = await asyncio.wrap_future(self._ask(prompt))
            if turn is None:
                raise OverlongPromptError("the attempt is over")
            return turn

        async def from_native_response(self, response: Any) -> Any:
            content, calls, cut = response
            message = ResponseMessage(
                content=content,
                finish_reason="length" if cut else "tool_calls" if calls else "stop",
                is_truncated=cut,
                tool_calls=[ToolCall(id=i, name=name, arguments=text) for i, name, text in calls] or None,
            )
            return Response(id="upslope", created=0, model="upslope", message=message)

    return Turns
