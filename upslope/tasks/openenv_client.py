"""A session at a server of OpenEnv, by the library's own client: reset, steps and the end, each within its time.

What a server says is looked at as it comes in, by the hook that the library has for that (``EnvClient._parse_result``):
its generic client takes any object for an observation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, TimeoutError as NotInTime
from typing import Any, NamedTuple

from upslope.errors import Unavailable, UserError
from upslope.plugins import said
from upslope.tasks.awaited import begun_on_loop
from upslope.tasks.reward_values import finite

CODE = re.compile(r"^Server error: (.*) \(code: ([\w.]+)\)\s*\Z", re.DOTALL)
"""How the client tells of an error that the server tells of."""
FULL, NOT_AN_ACTION, RAISED = "CAPACITY_REACHED", "VALIDATION_ERROR", "EXECUTION_ERROR"
"""Codes of such errors (OpenEnv 0.3)."""
ROOM = 5.0
"""Seconds that a session waits for room: a server is done with one that was closed a moment after its end."""
PAUSE = 0.1
"""Seconds between two looks for room."""
CLOSING = 2.0
"""Seconds that the end of a session may take."""
LOCAL = ("localhost", "127.0.0.1", "::1")


class Observed(NamedTuple):
    """What came of a reset or a step."""

    observation: Mapping[str, Any]
    reward: float | None
    done: bool


class ServerSaysNo(Exception):
    """The server tells of an error, with its code."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class NoOpenEnv(Exception):
    """What a server said is none of OpenEnv's answers."""


class SessionEnded(Unavailable):
    """The server ended the connection."""


class OpenEnvSession:
    """One session, which begins with ``begin`` and is over with ``close``, or when nobody holds it any longer."""

    def __init__(self, url: str, seconds: float) -> None:
        """``seconds``: what the server may take for an answer."""
        self.url, self._seconds = url, seconds
        self._open()

    def _open(self) -> None:
        # The limit is held here, for all that an answer takes; the client's own is for each part of it.
        self._client = client_class()(
            base_url=self.url, connect_timeout_s=2 * self._seconds, message_timeout_s=2 * self._seconds
        )
        self._ending = weakref.finalize(self, _closed_soon, self._client)
        self._ending.atexit = False  # with the process its connections end

    def begin(self, **arguments: Any) -> Observed:
        """Reset. Raises UserError for a server that has no room, and as ``step`` does."""
        until = time.monotonic() + ROOM
        while True:
            try:
                return self._answered(lambda: self._client.reset(**arguments))
            except (ServerSaysNo, SessionEnded) as error:  # a server without room may end it before that can be read
                if isinstance(error, ServerSaysNo) and error.code != FULL:
                    self.close()
                    raise UserError(f"{self.url} cannot reset: {said(error, str)} ({error.code})") from error
                if time.monotonic() > until:
                    has = "has" if isinstance(error, ServerSaysNo) else "seems to have"
                    raise Unavailable(
                        f"{self.url} {has} no room for another session ({said(error, str)}); start it with "
                        "max_concurrent_envs as many as attempts are made at a time"
                    ) from error
            self.close()
            time.sleep(PAUSE)
            self._open()

    def step(self, action: Mapping[str, Any]) -> Observed:
        """Raises ServerSaysNo for an error that the server tells of, Unavailable for a server that is away or takes too
        long, and UserError for one that answers something else."""
        if not self._ending.alive:  # the client would begin another one
            raise SessionEnded(f"the session at {self.url} is over")
        return self._answered(lambda: self._client.step(dict(action)))

    def close(self) -> None:
        """It may be closed already."""
        ending = self._ending()
        if ending is not None:
            with contextlib.suppress(NotInTime):
                ending.result(CLOSING)

    def _answered(self, ask: Callable[[], Coroutine[Any, Any, Observed]]) -> Observed:
        future = begun_on_loop(asyncio.wait_for(ask(), self._seconds))
        try:
            found: Observed = future.result()
            return found
        except TimeoutError:
            what: UserError = Unavailable(
                f"{self.url} did not answer within {self._seconds:g} s (task.options.seconds)"
            )
        except NoOpenEnv as error:
            what = UserError(f"{self.url} answers what is no OpenEnv: {said(error, str)}")
        except RuntimeError as error:
            told = CODE.match(str(error))
            if told is None:
                raise
            raise ServerSaysNo(told[1], told[2].rpartition(".")[2]) from None
        except OSError as error:
            what = Unavailable(f"{self.url} cannot be reached: {said(error, str)}")
        except Exception as error:  # of websockets, or of JSON that is none
            if type(error).__module__.startswith("websockets"):
                what = SessionEnded(f"{self.url} ended the connection: {said(error, str)}")
            else:
                what = UserError(f"{self.url} answers what is no OpenEnv: {type(error).__name__}: {said(error, str)}")
        self.close()
        raise what


def _closed_soon(client: Any) -> Future[Any]:
    async def closed() -> None:
        with contextlib.suppress(Exception):  # of a server that is away
            await asyncio.wait_for(client.close(), CLOSING)

    return begun_on_loop(closed())


@functools.cache
def client_class() -> Any:
    """The client's class, made once it is needed. Raises ImportError where the library is not there."""
    from openenv.core import EnvClient

    class ObservingClient(EnvClient):  # type: ignore[misc]
        def _step_payload(self, action: Any) -> Any:
            return action

        def _parse_result(self, payload: Any) -> Observed:
            return observed(payload)

        def _parse_state(self, payload: Any) -> Any:
            return payload

    return ObservingClient


def observed(payload: Any) -> Observed:
    """An answer to a reset or a step. Raises NoOpenEnv for what is none.

    >>> observed({"observation": {"text": "Hi"}, "reward": 1, "done": False})
    Observed(observation={'text': 'Hi'}, reward=1.0, done=False)
    """
    if not isinstance(payload, Mapping) or not isinstance(payload.get("observation"), Mapping):
        raise NoOpenEnv(f"{payload!r:.80}, without an observation")
    given, done = payload.get("reward"), payload.get("done")
    reward = None if given is None else finite(given)
    if given is not None and reward is None:
        raise NoOpenEnv(f"the reward {given!r:.40}, which is no finite number")
    if done is not None and not isinstance(done, bool):
        raise NoOpenEnv(f"done = {done!r:.40}, which is neither true nor false")
    return Observed(payload["observation"], reward, bool(done))


def schemas_of(url: str, seconds: float) -> Mapping[str, Any] | None:
    """What a server tells of its actions and observations (``/schema``); None: nothing. Raises Unavailable for one that
    is away, and UserError for one that answers something else."""
    web = re.sub("^ws", "http", url) + "/schema"
    try:
        own: dict[str, str] | None = (
            {} if urllib.parse.urlsplit(url).hostname in LOCAL else None
        )  # a proxy does not know this machine
        with urllib.request.build_opener(urllib.request.ProxyHandler(own)).open(web, timeout=seconds) as answer:
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 405):
            return None
        raise UserError(f"{web} answers {error.code} {error.reason}; is it an OpenEnv server?") from error
    except TimeoutError as error:
        raise Unavailable(f"{web} did not answer within {seconds:g} s (task.options.seconds)") from error
    except urllib.error.URLError as error:
        late = isinstance(error.reason, TimeoutError)
        told = (
            f"did not answer within {seconds:g} s (task.options.seconds)"
            if late
            else f"cannot be reached: {error.reason}"
        )
        raise Unavailable(f"{web} {told}; is the server up?") from error
    except OSError as error:
        raise Unavailable(f"{web} cannot be reached: {said(error, str)}") from error
    except Exception as error:  # what comes back is no HTTP, or no JSON
        raise UserError(f"{web} answers what is no JSON ({said(error, str)}); is it an OpenEnv server?") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("action"), Mapping):
        raise UserError(f"{web} answers {found!r:.60}, without a schema of actions; is it an OpenEnv server?")
    return found
