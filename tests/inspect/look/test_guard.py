"""Nobody but the user who has the address reads anything, whatever is tried."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asked import PORT, ask_app
from made_runs import made_run

from upslope.inspect.look.guard import new_token
from upslope.inspect.look.serve import make_app

TOKEN = "a-token-of-a-test"


@pytest.fixture
def app(tmp_path: Path) -> Any:
    made_run(tmp_path / "runs" / "one", 3)
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "runs" / "beside.txt").write_text("the secret")
    return make_app([tmp_path / "runs"], TOKEN, PORT)[0]


def test_the_page_answers_to_its_own_address(app: Any) -> None:
    for host in (f"127.0.0.1:{PORT}", f"localhost:{PORT}"):
        found = ask_app(app, f"/{TOKEN}/", headers={"host": host})
        assert found.status == 200
        assert b"upslope" in found.body
    assert ask_app(app, f"/{TOKEN}/api/runs").told[0]["name"] == "one"


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1.evil.example:{PORT}", "", "[::1]",
     f"127.0.0.1:{PORT}.evil.example", f"localhost.evil.example:{PORT}", f"0.0.0.0:{PORT}", f"evil@127.0.0.1:{PORT}"],
)  # fmt: skip
def test_a_foreign_host_is_refused(app: Any, host: str) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/api/runs", f"/{TOKEN}/static/app.js"):
        found = ask_app(app, path, headers={"host": host})
        assert found.status == 403
        assert b"one" not in found.body


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": f"http://127.0.0.1:{PORT + 1}"},
     {"origin": f"https://127.0.0.1:{PORT}"}, {"origin": f"http://127.0.0.1:{PORT}.evil.example"},
     {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)  # fmt: skip
def test_a_foreign_origin_is_refused(app: Any, headers: dict[str, str]) -> None:
    assert ask_app(app, f"/{TOKEN}/api/runs", headers=headers).status == 403


def test_our_own_origin_is_not(app: Any) -> None:
    headers = {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}
    assert ask_app(app, f"/{TOKEN}/api/runs", headers=headers).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_it_only_reads(app: Any, method: str) -> None:
    assert ask_app(app, f"/{TOKEN}/api/runs", method=method).status == 405


def test_an_address_without_its_last_slash_leads_to_the_page(app: Any) -> None:
    found = ask_app(app, f"/{TOKEN}")
    assert (found.status, found.headers["location"]) == (307, f"/{TOKEN}/")


def test_port_80_stands_in_no_address(tmp_path: Path) -> None:
    made_run(tmp_path / "one", 1)
    app = make_app([tmp_path], TOKEN, 80)[0]
    assert ask_app(app, f"/{TOKEN}/api/runs", headers={"host": "127.0.0.1"}).status == 200


@pytest.mark.parametrize("path", ["/", "/api/runs", "/static/app.js", f"/{TOKEN}x/", f"/x{TOKEN}/", "/T/",
                                  f"//{TOKEN}/", "/%00/", f"/{TOKEN[:-1]}/"])  # fmt: skip
def test_without_the_token_there_is_nothing(app: Any, path: str) -> None:
    assert ask_app(app, path).status == 403


def test_a_web_socket_is_never_accepted(app: Any) -> None:
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    headers = [(b"host", f"127.0.0.1:{PORT}".encode())]
    socket = {"type": "websocket", "path": f"/{TOKEN}/", "headers": headers, "query_string": b""}
    asyncio.run(app(socket, receive, send))
    assert said == []


UPWARDS = ["..", "%2e%2e", "%2E%2E", "..%2f", "..\\", "%5c..", "....//", "..;", "%c0%ae%c0%ae", "．．"]
PLACES = ["secret.txt", "beside.txt", "/etc/passwd"]


@pytest.mark.parametrize("up", UPWARDS)
@pytest.mark.parametrize("place", PLACES)
def test_no_path_leads_out(app: Any, up: str, place: str) -> None:
    for begin in ("static/", "static/vendor/", "api/", ""):
        for times in (1, 2, 6):
            path = f"/{TOKEN}/{begin}{(up + '/') * times}{place.lstrip('/')}"
            for raw in (None, path.encode()):
                found = ask_app(app, path, raw=raw)
                assert found.status in (403, 404, 405)
                assert b"the secret" not in found.body and b"root:" not in found.body


@pytest.mark.parametrize("up", UPWARDS)
def test_no_name_of_a_run_leads_out(app: Any, up: str, tmp_path: Path) -> None:
    for name in (
        f"{up}/secret.txt",
        f"one/{up}/{up}",
        up,
        str(tmp_path),
        str(tmp_path / "runs" / "one"),
        "/etc",
        "one/",
        "",
    ):
        for question in ("run", "curves", "step", "attempt", "search"):
            found = ask_app(app, f"/{TOKEN}/api/{question}", {"run": name})
            assert found.status == 404
            assert "there is no run" in found.told["error"]


@pytest.mark.parametrize("kind", ["../step", "step/../../..", "checkpoint", "", "eval\x00"])
def test_no_kind_leads_out(app: Any, kind: str) -> None:
    found = ask_app(app, f"/{TOKEN}/api/step", {"run": "one", "kind": kind, "step": 0})
    assert found.status == 404


def test_a_link_that_leads_out_is_not_followed(tmp_path: Path) -> None:
    secret = made_run(tmp_path / "elsewhere" / "secret", 2)
    run = made_run(tmp_path / "runs" / "one", 2)
    (run / "rollouts" / "step-000000.parquet").unlink()
    (run / "rollouts" / "step-000000.parquet").symlink_to(secret / "rollouts" / "step-000000.parquet")
    (run / "run.toml").unlink()
    (run / "run.toml").symlink_to(secret / "run.toml")
    other = made_run(tmp_path / "runs" / "two", 2)
    (other / "journal.jsonl").unlink()
    (other / "journal.jsonl").symlink_to(secret / "journal.jsonl")
    (tmp_path / "runs" / "linked").symlink_to(secret)
    app = make_app([tmp_path / "runs"], TOKEN, PORT)[0]
    rows = {row["name"]: row for row in ask_app(app, f"/{TOKEN}/api/runs").told}
    assert {name: row["steps"] for name, row in rows.items()} == {"one": 2, "two": 0}
    assert ask_app(app, f"/{TOKEN}/api/step", {"run": "one", "step": 0}).status == 404
    assert ask_app(app, f"/{TOKEN}/api/run", {"run": "one"}).told["settings"] == {}


def test_every_answer_forbids_what_is_not_the_pages_own(app: Any) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/api/runs", "/"):
        headers = ask_app(app, path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_tokens_are_long_and_differ() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert all(len(new_token()) >= 20 for _ in range(10))
