"""Coroutines of users' functions, on one event loop for the life of the process: what a module makes once (a client, a
semaphore, a lock) belongs to the loop that it was first used on."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

MOMENT = 0.1
"""Seconds between two looks: a Ctrl-C that comes just before a wait is seen only after it."""


def all_of(waiting: Sequence[Awaitable[Any]]) -> list[Any]:
    """What each of them returns, or the exception that it raises; they run side by side. To be called in any thread but
    the loop's own; whoever is interrupted cancels them."""
    future = asyncio.run_coroutine_threadsafe(_side_by_side(waiting), _loop(os.getpid()))
    try:
        while not concurrent.futures.wait([future], MOMENT).done:
            pass
        return future.result()
    finally:
        future.cancel()


def begun_on_loop(work: Coroutine[Any, Any, Any]) -> concurrent.futures.Future[Any]:
    """What a coroutine comes to, which begins at once."""
    return asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))


async def _side_by_side(waiting: Sequence[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*map(_outcome, waiting), return_exceptions=True)


async def _outcome(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # sys.exit() would end the loop, and leave whoever waits to wait
        return error


_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}


def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop of this process, in a thread of its own: a notebook's main thread already runs one. It is one, whoever
    asks first: worlds do in several threads at a time."""
    known = _LOOPS.get(process)
    if known is not None:
        return known
    loop = asyncio.new_event_loop()
    if _LOOPS.setdefault(process, loop) is not loop:
        loop.close()
        return _LOOPS[process]

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    threading.Thread(target=serve, name=f"awaited-{process}", daemon=True).start()
    atexit.register(loop.call_soon_threadsafe, loop.stop)
    return loop
