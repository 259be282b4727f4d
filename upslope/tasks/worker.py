"""The other side of ``workers``: a process that makes a scorer once and scores what it is asked to.

It is asked by pickles on one end of a socket pair, whose number is its first argument, and answers with lines of JSON,
each a list: "ready"; "at" and what; "print", the stream and a text; "scores" and a list of them; "mistake", "machine"
or "defect" and a text. When nobody is at the other end any more it ends, in the middle of whatever it does.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import queue
import socket
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any

from upslope.errors import Unavailable, UserError
from upslope.native.parent import end_with
from upslope.plugins import describe
from upslope.tasks.at_work import WATCH


class Answers:
    """Where the process answers; whole lines, from any of its threads."""

    def __init__(self, to: socket.socket) -> None:
        self._to, self._lock = to, threading.Lock()

    def __call__(self, kind: str, *content: Any) -> None:
        with self._lock:
            line = json.dumps([kind, *content], default=float)  # numbers of any library
            self._to.sendall(line.encode() + b"\n")


class Printed(io.RawIOBase):
    """What the user's code writes to one of the two streams, sent to whoever has the terminal."""

    def __init__(self, answer: Answers, stream: str) -> None:
        self._answer, self._stream = answer, stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2  # for processes that it starts: what they say goes to standard error as it is

    def write(self, content: Any) -> int:
        text = bytes(content).decode("utf-8", "replace")
        if text:
            self._answer("print", self._stream, text)
        return len(content)


def printing(answer: Answers, stream: str) -> io.TextIOWrapper:
    """A text stream over ``Printed``."""
    return io.TextIOWrapper(
        io.BufferedWriter(Printed(answer, stream)), "utf-8", "backslashreplace", write_through=True, line_buffering=True
    )


def serve(descriptor: int, parent: int) -> None:
    """Serve until the other end closes, or the process ``parent`` is gone."""
    end_with(parent)
    end = socket.socket(fileno=descriptor)
    answer = Answers(end)
    what = "the task's score"

    def at(now: str) -> None:
        nonlocal what
        what = now
        answer("at", what)

    sys.stdout, sys.stderr = printing(answer, "stdout"), printing(answer, "stderr")
    WATCH.begun = at
    WATCH.say = lambda line: None  # whoever asks watches the time
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(end, asked), daemon=True).start()
    scorer: Any = None
    while True:
        given = asked.get()
        try:
            if scorer is None:
                scorer = _made(*given)
                answer("ready")
            else:
                scores = [asdict(score) for score in scorer.score(*given)]
                sys.stdout.flush()
                answer("scores", scores)
        except UserError as error:
            machines = isinstance(error, Unavailable) or isinstance(error.__cause__, MemoryError)
            answer("machine" if machines else "mistake", str(error))
        except KeyboardInterrupt as error:  # nobody's Ctrl-C comes here: the user's code raised it itself
            answer("mistake", f"{what} crashed: {describe(error, '')}")
        except BaseException:
            answer("defect", traceback.format_exc())


def _made(maker: str, arguments: dict[str, Any]) -> Any:
    module, _, name = maker.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def _listen(end: socket.socket, asked: queue.SimpleQueue[Any]) -> None:
    """Hand on what is asked; the end of it is the end of the process, whatever its main thread is caught in."""
    with end.makefile("rb") as file:
        while True:
            try:
                asked.put(pickle.load(file))
            except (EOFError, OSError):
                os._exit(0)
