"""Processes that tokenise side by side. What comes out does not depend on how many they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import NamedTuple, Protocol, TypeVar

from upslope.errors import Unavailable
from upslope.native.parent import end_with
from upslope.text.encoder import Encoded, Encoder

START = "import sys; from upslope.text.pool import tokenise; tokenise(*map(int, sys.argv[1:]))"


class HasTexts(Protocol):
    """Some documents, and whatever else is known of them."""

    @property
    def texts(self) -> list[str]: ...


T = TypeVar("T", bound=HasTexts)


class _Process(NamedTuple):
    process: subprocess.Popen[bytes]
    end: Connection

    def ask(self, texts: list[str]) -> Encoded:
        """Raises Unavailable if it has ended, and RuntimeError for a defect."""
        try:
            self.end.send(texts)
            answer = self.end.recv()
        except (EOFError, OSError):
            code = self.process.wait()
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise Unavailable(
                f"a process that tokenises has ended ({how}; the system does so where memory is short); try again: "
                "what is finished is kept"
            ) from None
        if isinstance(answer, str):
            raise RuntimeError(f"a process that tokenises failed:\n{answer}")
        assert isinstance(answer, Encoded)
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.end.close()


def tokenised(batches: Iterable[T], encoder: Encoder, workers: int) -> Generator[tuple[T, Encoded]]:
    """Every batch with its tokens, in order, by so many other processes; with none, by this one.

    A few batches are under way at a time, so memory does not grow with the text. The processes end when this is closed,
    and with this process, however it ends. Raises Unavailable if one of them ends before.
    """
    if not workers:
        encode = encoder.open()
        for batch in batches:
            yield batch, encoder.encoded(encode, batch.texts)
        return
    processes: list[_Process] = []
    try:
        for _ in range(workers):
            processes.append(_started(encoder))
        yield from _in_order(batches, processes)
    finally:
        for process in processes:
            process.kill()


def _in_order(batches: Iterable[T], processes: list[_Process]) -> Iterator[tuple[T, Encoded]]:
    free: SimpleQueue[_Process] = SimpleQueue()
    for process in processes:
        free.put(process)

    def ask(texts: list[str]) -> Encoded:
        process = free.get()
        try:
            return process.ask(texts)
        finally:
            free.put(process)

    asking = ThreadPoolExecutor(len(processes))  # a thread for each process, which waits for its answer
    waiting: deque[tuple[T, Future[Encoded]]] = deque()
    try:
        for batch in batches:
            waiting.append((batch, asking.submit(ask, batch.texts)))
            if len(waiting) > 2 * len(processes):
                first, answer = waiting.popleft()
                yield first, answer.result()
        while waiting:
            first, answer = waiting.popleft()
            yield first, answer.result()
    finally:
        for process in processes:  # first of all, or the threads wait for what nobody wants
            process.process.kill()
        asking.shutdown(cancel_futures=True)


def _started(encoder: Encoder) -> _Process:
    end, theirs = Pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(theirs.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in the terminal is this process's business
        )
    except (OSError, ValueError) as error:  # ValueError: a system that hands no descriptor on
        end.close()
        why = getattr(error, "strerror", None) or error
        raise Unavailable(f"a process that tokenises cannot be started: {why}") from None
    finally:
        theirs.close()
    with contextlib.suppress(OSError):  # it has ended, which the first question finds out
        end.send(encoder)
    return _Process(process, end)


def tokenise(descriptor: int, parent: int) -> None:
    """The other side: tokenise what is asked until the other end closes, or the process ``parent`` is gone."""
    end_with(parent)
    end = Connection(descriptor)
    try:
        encoder = end.recv()
        encode = encoder.open()
        while True:
            texts = end.recv()
            try:
                answer = encoder.encoded(encode, texts)
            except Exception:
                answer = traceback.format_exc()
            end.send(answer)
    except (EOFError, OSError):
        return
