"""A client of verifiers' that says what was written elsewhere."""

from __future__ import annotations

import functools
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
