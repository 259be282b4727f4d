"""The server: a policy behind OpenAI's interface."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from upslope.errors import UserError
from upslope.inspect.look.serve import listen_on
from upslope.model.policy import Policy
from upslope.serve.engine import ServingEngine
from upslope.serve.faults import unrouted
from upslope.serve.guard import Door, is_loopback
from upslope.serve.routes import Served
from upslope.serve.words import Words


@dataclass(frozen=True)
class Service:
    """How a policy is served.

    >>> Service("runs/wider", port=0).host
    '127.0.0.1'
    """

    name: str
    """What clients call the model."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any that is free."""
    key: str = ""
    """What clients have to show; empty: nothing."""
    max_rows: int = 64
    """Responses that are written at once."""
    max_tokens: int = 1024
    """The longest answer in a chat of which no length was asked."""

    def require_safe(self) -> None:
        """Raise UserError for a server that others reach and anybody may use."""
        if not is_loopback(self.host) and not self.key:
            raise UserError(
                f"on {self.host} everybody in the network could use the model; give --api-key, or leave --host out"
            )


@contextlib.contextmanager
def serving(policy: Policy, service: Service) -> Iterator[tuple[ASGIApp, ServingEngine]]:
    """The application, without a socket, and the engine behind it, which runs for as long."""
    words = Words(policy)
    with ServingEngine(policy, words.text, max_rows=service.max_rows) as engine:
        served = Served(service.name, policy, engine, words, service.max_tokens)
        app = Starlette(routes=served.routes(), exception_handlers={HTTPException: unrouted})
        yield Door(app, service.key, local=is_loopback(service.host)), engine


def serve_policy(policy: Policy, service: Service, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; ``tell`` is told the address once it answers. Raises UserError if the port is taken, or for a
    server that anybody could use."""
    service.require_safe()
    with listen_on(service.port, service.host) as sock, serving(policy, service) as (app, engine):
        host = f"[{service.host}]" if ":" in service.host else service.host
        address = f"http://{host}:{sock.getsockname()[1]}/v1"
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        _Uvicorn(config, engine, lambda: tell(address)).run(sockets=[sock])


class _Uvicorn(uvicorn.Server):
    """Says when it answers, and ends what is being written before it waits for those who wait for it."""

    def __init__(self, config: uvicorn.Config, engine: ServingEngine, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._engine, self._told = engine, told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.close()
        await super().shutdown(sockets)
