"""Questions to an ASGI application, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

PORT = 8000


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.body)


def ask_app(
    app: Any,
    path: str,
    query: Mapping[str, Any] | None = None,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    raw: bytes | None = None,
    body: bytes = b"",
) -> Answered:
    """GET ``path`` as a browser would from this machine; ``headers`` replace or add, an empty value leaves one out."""
    return asyncio.run(asked_app(app, path, query, method=method, headers=headers, raw=raw, body=body))


async def asked_app(
    app: Any,
    path: str,
    query: Mapping[str, Any] | None = None,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    raw: bytes | None = None,
    body: bytes = b"",
    leaves: asyncio.Event | None = None,
) -> Answered:
    """The same for those who ask several at once; ``leaves`` set, the connection is closed."""
    told = {"host": f"127.0.0.1:{PORT}"} | dict(headers or {})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": raw if raw is not None else quote(path).encode(),
        "root_path": "",
        "query_string": urlencode(query or {}).encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in told.items() if value],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", PORT),
    }
    parts: list[dict[str, Any]] = []

    asked = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not asked:
            await (leaves or asyncio.Event()).wait()  # whoever asked stays until there is an answer
            return {"type": "http.disconnect"}
        return asked.pop()

    async def send(message: dict[str, Any]) -> None:
        parts.append(message)

    await app(scope, receive, send)
    start = next(part for part in parts if part["type"] == "http.response.start")
    body = b"".join(part.get("body", b"") for part in parts if part["type"] == "http.response.body")
    return Answered(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body)
