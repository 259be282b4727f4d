"""Who may ask: only whoever has the address that was printed, from this machine, and no other site on their behalf."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads its own files and nothing else, whatever a model writes."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """What stands in the address: 128 random bits."""
    return secrets.token_urlsafe(16)


class Guard:
    """Passes on what is asked with the token as the first part of the path, for a Host that is this machine, without an
    Origin or with our own, by GET or HEAD. All else is refused: 403 for a foreign Host or Origin or no token, 405 for
    another method.

    A foreign Host is how a web site would reach a server here under its own name (DNS rebinding); a foreign Origin is
    how its script would ask in the user's name.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        names = ("127.0.0.1", "localhost")
        self._port = port
        self._hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            if scope["type"] == "http":
                await refusal(scope, receive, _with_headers(send))
            return  # a web socket is never accepted
        _, slash, rest = scope["path"].removeprefix("/").partition("/")
        if not slash:  # else the page would ask for its files beside itself
            await RedirectResponse(f"{scope['path']}/")(scope, receive, _with_headers(send))
            return
        inner = dict(scope) | {"path": f"/{rest}", "raw_path": f"/{rest}".encode(), "root_path": ""}
        await self._app(inner, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["type"] != "http":
            return PlainTextResponse("", 403)
        headers = Headers(scope=scope)
        if not set(_given(headers, "host")) <= self._hosts or len(_given(headers, "host")) != 1:
            return PlainTextResponse(f"This page answers to 127.0.0.1:{self._port} only, on this machine.", 403)
        origins = _given(headers, "origin")
        if not set(origins) <= self._origins or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return PlainTextResponse("Another site may not ask here.", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("This page only reads.", 405)
        first = scope["path"].removeprefix("/").partition("/")[0]
        if not secrets.compare_digest(first.encode(), self._token.encode()):
            return PlainTextResponse("The address lacks its token: use the one that `upslope look` printed.", 403)
        return None


def _given(headers: Headers, name: str) -> list[str]:
    return [value.lower() for value in headers.getlist(name)]


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_encoded(HEADERS.items())]
        await send(message)

    return sender


def _encoded(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


def address(token: str, port: int) -> str:
    """Where the page is.

    >>> address("abc", 8000)
    'http://127.0.0.1:8000/abc/'
    """
    return f"http://127.0.0.1:{port}/{token}/"
