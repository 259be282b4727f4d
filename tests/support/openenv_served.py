"""A server of OpenEnv's own package with small environments, and attempts at them without a model."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from spoken import spoken

from upslope.errors import UserError
from upslope.tasks.registry import open_task
from upslope.types import Rollout


def app_of(kind: str, live: set[int]) -> Any:
    """A server's application. ``live`` holds the environments that are not closed."""
    import fastmcp
    import pydantic
    from openenv.core.env_server import Action, Environment, Observation, State, create_app
    from openenv.core.env_server.mcp_environment import MCPEnvironment
    from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

    class Guess(Action):  # type: ignore[misc]
        number: str = pydantic.Field(max_length=12)

    class Seen(Observation):  # type: ignore[misc]
        hint: str

    class Guessing(Environment):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._turns = 0
            live.add(id(self))

        def reset(self, seed: int = 0, **more: Any) -> Any:
            self._wanted = str(seed % 10)
            return Seen(hint=f"Guess, {seed}.")

        def step(self, action: Any, **more: Any) -> Any:
            self._turns += 1
            if action.number == "crash":
                raise KeyError("broken")
            right = action.number == self._wanted
            return Seen(hint=f"Not {action.number}.", reward=1.0 if right else -0.25, done=right)

        @property
        def state(self) -> Any:
            return State(step_count=self._turns)

        def close(self) -> None:
            live.discard(id(self))

    class Lending(MCPEnvironment):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            mcp = fastmcp.FastMCP("sums")

            @mcp.tool
            def add(a: int, b: int) -> int:
                """Add two numbers."""
                return a + b

            super().__init__(mcp)
            live.add(id(self))

        def reset(self, seed: int = 0, **more: Any) -> Any:
            return Observation()

        def step(self, action: Any, **more: Any) -> Any:
            return super().step(action, **more)

        async def step_async(self, action: Any, **more: Any) -> Any:
            found = await super().step_async(action, **more)
            if isinstance(found, CallToolObservation) and found.error is None:
                found.reward = 0.5
            return found

        def _step_impl(self, action: Any, **more: Any) -> Any:
            return Observation()

        @property
        def state(self) -> Any:
            return State()

        def close(self) -> None:
            super().close()
            live.discard(id(self))

    if kind == "tools":
        return create_app(Lending, CallToolAction, CallToolObservation, env_name="sums", max_concurrent_envs=8)
    most = 1 if kind == "narrow" else 8
    return create_app(Guessing, Guess, Seen, env_name="guessing", max_concurrent_envs=most)


class Served:
    def __init__(self, kind: str) -> None:
        import uvicorn

        self.live: set[int] = set()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = uvicorn.Config(app_of(kind, self.live), port=port, log_level="critical", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def task(self, **given: Any) -> Any:
        return open_task(f"openenv:{self.url}", **given)

    def left(self) -> int:
        """Sessions that are open still, once the server has had time to end those that are over."""
        until = time.monotonic() + 5
        while self.live and time.monotonic() < until:
            time.sleep(0.01)
        return len(self.live)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(5)


@contextlib.contextmanager
def served(kind: str) -> Iterator[Served]:
    server = Served(kind)
    try:
        yield server
    finally:
        server.stop()


def attempt(task: Any, *turns: str, seed: int = 3, most: int = 900, num: int = 1) -> list[Rollout]:
    """Attempts with these turns, character by character, each sampled token checked."""
    problem = next(p for s in ("train", "test") for p in sides(task, s) if p.columns["reset"].get("seed", seed) == seed)
    found, written = spoken(task, problem, *turns, most=most, num=num)
    for rollout in found:
        begins, ends = (0, *rollout.turns), (*rollout.turns, len(rollout.response))
        for begin, end, ids in zip(begins, ends, written, strict=False):
            own = rollout.response[begin : begin + len(ids)]
            assert own == ids[: len(own)] and all(rollout.mask[begin : begin + len(own)])
            assert not any(rollout.mask[begin + len(own) : end])
    return found


def sides(task: Any, split: str) -> Any:
    try:
        return task.problems(split)
    except UserError:
        return ()
