"""HTTP to a vLLM server: a question and its answer, and many answers at once that come token by token."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from upslope.errors import Unavailable, UserError

CONNECTIONS = 64
"""Requests that wait for the server at once; it has a queue of its own, and each costs a thread here."""
Question = Mapping[str, Any]


class ServerRefused(UserError):
    """The server answered that it will not, or cannot."""


class VllmClient:
    """Speaks to one server. Every call ends within ``patience`` seconds of silence: Unavailable says who was silent."""

    def __init__(self, url: str, patience: float, post_mortem: Callable[[], str] = str) -> None:
        """``url``: ``http://HOST:PORT``. ``post_mortem`` says, if the server is known to have ended, how. Raises
        UserError for another kind of address."""
        parts = urlsplit(url if "//" in url else f"//{url}")
        if parts.scheme not in ("", "http") or not parts.hostname or parts.path.strip("/"):
            raise UserError(f"cluster.vllm_url={url!r} is no address of a server; write http://HOST:PORT")
        self._host, self._port = parts.hostname, parts.port or 8000
        self.url = f"http://{self._host}:{self._port}"
        self.patience, self._post_mortem = patience, post_mortem

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Question | None = None) -> Any:
        return self._ask("POST", path, body)

    def rpc(self, method: str, **arguments: str) -> list[Any]:
        """What a method of every worker answers."""
        answer = self.post("/collective_rpc", {"method": method, "kwargs": arguments}) or {}
        return list(answer.get("results", []))

    def streams(self, path: str, bodies: Sequence[Question]) -> Generator[tuple[int, dict[str, Any]], None, None]:
        """Post all the bodies and yield (place of the body, piece of its answer) as they come, in this thread.

        Whoever stops listening closes it (``contextlib.closing``), and the server drops what it was writing. Raises
        Unavailable where none of them says anything for ``patience`` seconds, ServerRefused for an error.
        """
        said: queue.SimpleQueue[tuple[int, dict[str, Any] | Exception | None]] = queue.SimpleQueue()
        todo = iter(enumerate(bodies))
        lock, over, open_now = threading.Lock(), threading.Event(), set[socket.socket]()

        def work() -> None:
            while not over.is_set():
                with lock:
                    place, body = next(todo, (-1, None))
                if body is None:
                    return
                connection = self._connection()
                line = None
                try:
                    connection.connect()
                    open_now.add(line := connection.sock)
                    line.settimeout(None)  # it may wait in the server's queue while others are answered
                    if over.is_set():  # by one who did not see this line yet
                        return
                    for piece in self._pieces(connection, path, body):
                        said.put((place, piece))
                    said.put((place, None))
                except Exception as error:  # raised again in the thread that listens
                    said.put((place, error))
                    return
                finally:
                    open_now.discard(line)
                    connection.close()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(CONNECTIONS, len(bodies)))]
        for thread in threads:
            thread.start()
        try:
            num_left = len(bodies)
            while num_left:
                try:
                    place, piece = said.get(timeout=self.patience)
                except queue.Empty:
                    raise self._silent() from None
                if isinstance(piece, Exception):
                    raise self._lost(piece) if isinstance(piece, OSError | http.client.HTTPException) else piece
                if piece is None:
                    num_left -= 1
                else:
                    yield place, piece
        finally:
            over.set()
            for line in list(open_now):
                with contextlib.suppress(OSError):  # wakes whoever reads from it
                    line.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=self.patience)

    def _pieces(self, connection: http.client.HTTPConnection, path: str, body: Question) -> Iterator[dict[str, Any]]:
        """The events of a stream of ``data:`` lines, up to the one that says that it is over."""
        with contextlib.closing(self._sent(connection, "POST", path, body)) as response:
            if response.status != 200:
                raise self._refused(path, response)
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                text = line.removeprefix(b"data:").strip()
                if text == b"[DONE]":
                    return
                piece = json.loads(text)
                if "error" in piece:
                    raise ServerRefused(f"the vLLM server at {self.url} failed at {path}: {_message(piece)}")
                yield piece
        raise http.client.IncompleteRead(b"")

    def _ask(self, method: str, path: str, body: Question | None) -> Any:
        connection = self._connection()
        try:
            with contextlib.closing(self._sent(connection, method, path, body)) as response:
                if response.status != 200:
                    raise self._refused(path, response)
                content = response.read()
            return json.loads(content) if content else None
        except TimeoutError:
            raise self._silent(f"{method} {path}") from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=self.patience)

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Question | None
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json"})
        return connection.getresponse()

    def _refused(self, path: str, response: http.client.HTTPResponse) -> ServerRefused:
        try:
            why = _message(json.loads(response.read()))
        except ValueError:
            why = response.reason
        return ServerRefused(f"the vLLM server at {self.url} answers {path} with {response.status}: {why}")

    def _silent(self, what: str = "generation") -> Unavailable:
        return Unavailable(
            f"the vLLM server at {self.url} gave no sign of life for {self.patience:g} s ({what}){self._ended()}; look "
            "at it, or raise cluster.patience"
        )

    def _lost(self, error: Exception) -> Unavailable:
        if isinstance(error, TimeoutError):
            return self._silent()
        why = getattr(error, "strerror", None) or (str(error) if isinstance(error, OSError) else "it broke off")
        return Unavailable(f"the vLLM server at {self.url} cannot be reached: {why}{self._ended()}")

    def _ended(self) -> str:
        how = self._post_mortem()
        return f"; {how}" if how else ""


def _message(answer: Any) -> str:
    """What an error says, in one line, wherever the answer has it."""
    found = answer.get("error", answer.get("detail", answer)) if isinstance(answer, dict) else answer
    found = found.get("message", found) if isinstance(found, dict) else found
    return " ".join(str(found).split())[:500]
