"""The server of the page: read-only, on this machine alone."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from upslope.errors import UserError
from upslope.inspect.look.api import PageAnswers
from upslope.inspect.look.events import Events
from upslope.inspect.look.guard import Guard, address, new_token
from upslope.inspect.look.library import Library
from upslope.inspect.reading.places import require_roots

STATIC = Path(__file__).parent / "static"


def make_app(roots: Sequence[Path], token: str, port: int) -> tuple[Guard, Events]:
    """The page over the runs at and below ``roots``, behind its guard; and the events, which must be told when it is
    closed. Raises UserError for a folder that is none."""
    library = Library(require_roots(roots))
    events = Events(library)

    async def index(request: Request) -> FileResponse:
        return FileResponse(STATIC / "index.html")

    routes = [
        Route("/", index),
        *PageAnswers(library).routes(),
        Route("/api/events", events.answer),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes), token, port), events


def serve_page(roots: Sequence[Path], port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C; ``tell`` is told its address once it answers. ``port`` 0: any that is free. Raises
    UserError if the port is taken, or for a folder that is none."""
    with listen_on(port) as sock:
        port = sock.getsockname()[1]
        token = new_token()
        app, events = make_app(roots, token, port)
        server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"), events)
        server.told = lambda: tell(address(token, port))
        threading.Thread(target=events.read_on, daemon=True).start()  # while a browser starts
        server.run(sockets=[sock])


class _Server(uvicorn.Server):
    """Says when it answers, and ends its streams before it waits for them."""

    told: Callable[[], None]

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._events.closing = True
        await super().shutdown(sockets)


def listen_on(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket, by default of this machine alone; ``port`` 0: any that is free. Raises UserError if the port is taken,
    or the host is none of this machine's addresses."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"host {host!r} is no address of this machine: {error.strerror}") from None
        raise UserError(f"port {port}: {error.strerror}; give another one, or --port 0 for any") from None
    return sock
