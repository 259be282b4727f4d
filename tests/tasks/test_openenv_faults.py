"""Servers that are away, refuse, answer nonsense or hang: a stand-in for each, and the real client."""

from __future__ import annotations

import gc
import http
import json
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks import openenv_client
from upslope.tasks.openenv_client import NoOpenEnv, observed
from upslope.tasks.registry import open_task

SCHEMA: dict[str, Any] = {"action": {"properties": {"message": {"type": "string"}}}, "observation": {}}
FIRST = {"type": "observation", "data": {"observation": {"text": "Hi."}, "reward": None, "done": False}}


class StandIn:
    """Says ``schema`` to whoever asks for it, and ``answers`` to a session's messages, one after the other; None: no
    word. After the last it ends the connection."""

    def __init__(self, schema: Any, *answers: Any) -> None:
        from websockets.sync.server import serve

        self.over = threading.Event()

        def session(connection: Any) -> None:
            for answer in answers:
                try:
                    connection.recv()
                    if answer is not None:
                        connection.send(answer if isinstance(answer, str) else json.dumps(answer))
                    else:
                        connection.recv()
                except Exception:
                    break
            self.over.set()

        def page(connection: Any, request: Any) -> Any:
            if request.path == "/ws":
                return None
            if isinstance(schema, int):
                return connection.respond(http.HTTPStatus(schema), "no")
            return connection.respond(http.HTTPStatus.OK, schema if isinstance(schema, str) else json.dumps(schema))

        self._server = serve(session, "127.0.0.1", 0, process_request=page)
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def task(self, **options: Any) -> Any:
        return open_task(f"openenv:{self.url}", options=options)

    def stop(self) -> None:
        self._server.shutdown()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("openenv.core", reason="needs openenv-core (pip install openenv-core)")
    monkeypatch.setattr(openenv_client, "ROOM", 0.0)
    made: list[StandIn] = []

    def start(schema: Any, *answers: Any) -> StandIn:
        made.append(StandIn(schema, *answers))
        return made[-1]

    yield start
    for server in made:
        server.stop()


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openenv.core", None)
    openenv_client.client_class.cache_clear()
    with pytest.raises(UserError, match=r"needs openenv-core \(.*\): pip install openenv-core"):
        open_task("openenv:http://127.0.0.1:1")
    openenv_client.client_class.cache_clear()


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://a", "http://", "echo"])
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(UserError, match="needs the server's address, as openenv:http://"):
        open_task(f"openenv:{address}")


def test_a_server_that_is_away_is_told(stand_in: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{url}/schema cannot be reached: .*is the server up"):
            open_task(f"openenv:{url}")
    server = stand_in(SCHEMA)
    task = server.task()
    server.stop()
    with pytest.raises(UserError, match=f"problem openenv/train/0: {server.url} cannot be reached"):
        task.score(task.problems("train")[:1], ["Hi"])


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (500, "/schema answers 500"),
        ("<html>", "/schema answers what is no JSON"),
        ({"paths": {}}, r"/schema answers .*, without a schema of actions; is it an OpenEnv server"),
        ({"action": {"properties": {"n": {"type": "integer"}}}}, r"have no text \(they have n\)"),
        (
            {"action": {"properties": {"a": {"type": "string"}, "b": {"type": "string"}}}},
            r"several texts \(a, b\); say which: task.options.action",
        ),
        (
            {"action": {"properties": {"a": {"type": "string"}, "n": {"type": "integer"}}, "required": ["a", "n"]}},
            "need 'n' besides 'a'",
        ),
    ],
)
def test_a_server_that_is_none_of_openenvs_or_needs_more_is_told(stand_in: Any, schema: Any, why: str) -> None:
    server = stand_in(schema)
    with pytest.raises(UserError, match=f"{server.url}.*{why}") as error:
        server.task()
    assert "\n" not in str(error.value)


def error_with(code: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": "Out of order", "code": code}}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([FIRST, None], r"did not answer within 0.3 s \(task.options.seconds\)"),
        ([None], "did not answer within 0.3 s"),
        (["{"], "answers what is no OpenEnv: JSONDecodeError"),
        ([[1]], "answers what is no OpenEnv"),
        ([{"hello": 1}], "answers what is no OpenEnv: .*without an observation"),
        (
            [FIRST, {"data": {"observation": {}, "reward": "much"}}],
            "answers what is no OpenEnv: the reward 'much', which is no finite number",
        ),
        ([FIRST, '{"data": {"observation": {}, "reward": NaN}}'], "answers what is no OpenEnv: the reward nan"),
        ([FIRST, {"data": {"observation": {}, "done": "no"}}], "answers what is no OpenEnv: done = 'no'"),
        ([FIRST], "ended the connection"),
        ([], r"seems to have no room for another session \(.*ended the connection"),
        ([error_with("CAPACITY_REACHED")], r"has no room for another session \(Out of order\)"),
        ([error_with("FACTORY_ERROR")], r"cannot reset: Out of order \(FACTORY_ERROR\)"),
        ([FIRST, error_with("SESSION_ERROR")], r"failed: Out of order \(SESSION_ERROR\)"),
        ([{"data": {**FIRST["data"], "done": True}}], "was over before the first turn"),  # type: ignore[dict-item]
        ([{"data": {"observation": {"text": ""}}}], "says nothing at its reset; give prompts with --data"),
    ],
)
def test_what_goes_wrong_in_a_session_is_one_line_and_the_session_is_over(
    stand_in: Any, answers: list[Any], why: str
) -> None:
    server = stand_in(SCHEMA, *answers)
    task = server.task(seconds=0.3)
    with pytest.raises(UserError, match=f"problem openenv/train/0: {server.url} {why}") as error:
        task.score(task.problems("train")[:1], ["Hi"])
    assert "\n" not in str(error.value)
    assert server.over.wait(5)


def test_a_session_that_nobody_holds_any_longer_is_over(stand_in: Any) -> None:
    server = stand_in(SCHEMA, FIRST, FIRST)
    task = server.task()
    world = task.episode(task.problems("train")[0])
    assert world.opening(task.problems("train")[0].messages)[0]["content"] == '{"text": "Hi."}'
    assert not server.over.is_set()
    del world
    gc.collect()
    assert server.over.wait(5)


def test_a_session_that_is_over_is_not_begun_anew(stand_in: Any) -> None:
    server = stand_in(SCHEMA, FIRST, FIRST)
    session = openenv_client.OpenEnvSession(server.url, 5.0)
    session.begin()
    session.close()
    with pytest.raises(UserError, match=f"the session at {server.url} is over"):
        session.step({"message": "Hi"})


def test_an_answer_without_an_observation_is_none() -> None:
    for payload in (None, [], {}, {"observation": 3}):
        with pytest.raises(NoOpenEnv, match="without an observation"):
            observed(payload)
