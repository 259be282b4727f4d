"""Who may ask, and how much at once."""

from __future__ import annotations

import ipaddress
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from upslope.serve.options import Declined

MOST_BYTES = 32 * 2**20
"""Of a request."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Passes on whoever has the key, if there is one; on a server of this machine alone nobody whom a web page sent,
    neither under a name of its own (DNS rebinding) nor from another site."""

    def __init__(self, app: ASGIApp, key: str, *, local: bool) -> None:
        self._app, self._key, self._local = app, key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declined = self._declined(scope)
        if declined is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await JSONResponse(declined.told(), declined.status)(scope, receive, send)

    def _declined(self, scope: Scope) -> Declined | None:
        if scope["type"] == "lifespan":
            return None
        headers = Headers(scope=scope)
        if self._local:
            names = [_name(f"http://{host}") for host in headers.getlist("host")]
            if len(names) != 1 or not is_loopback(names[0]):
                return Declined("this server answers to this machine only", status=403)
            if not all(is_loopback(_name(origin)) for origin in headers.getlist("origin")):
                return Declined("another site may not ask here", status=403)
        given = headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._key and not secrets.compare_digest(given.encode(), self._key.encode()):
            return Declined("the API key is missing or wrong", code="invalid_api_key", status=401)
        return None


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def body_of(request: HttpRequest) -> Any:
    """The JSON of a request. Raises Declined if it is none, or too long."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise Declined(f"the body has more than {MOST_BYTES >> 20} MiB", status=413)
    try:
        body = json.loads(content)
        json.dumps(body, ensure_ascii=False).encode()  # JSON can write half a character, and no tokenizer reads it
    except UnicodeEncodeError:
        raise Declined("the body has half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        raise Declined(f"the body is no JSON: {error}") from None
    return body
