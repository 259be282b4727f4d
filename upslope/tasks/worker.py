"""The other side of ``workers``: a process that makes a scorer once and scores what it is asked to.

It is asked by pickles on one end of a socket pair, whose number is its only argument, and answers with lines of JSON,
each a list: "ready"; "at" and what; "print" and a text; "scores" and a list of them; "mistake" or "defect" and a text.
When nobody is at the other end any more it ends, in the middle of whatever it does.
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

from upslope.errors import UserError
from upslope.plugins import unless_interrupted
from upslope.tasks.at_work import WATCH


class Answers:
    """Where the process answers; whole lines, from any of its threads."""

    def __init__(self, to: socket.socket) -> None:
        self._to, self._lock = to, threading.Lock()

    def __call__(self, kind: str, *content: Any) -> None:
        with self._lock:
            line = json.dumps([kind, *content], default=float)  # numbers of any library
            self._to.sendall(line.encode() + b"\n")


class Printed(io.TextIOBase):
    """What the user's code prints, sent to whoever has the terminal."""

    def __init__(self, answer: Answers) -> None:
        self._answer = answer

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text:
            self._answer("print", text)
        return len(text)


def serve(descriptor: int) -> None:
    """Serve until the other end closes."""
    end = socket.socket(fileno=descriptor)
    answer = Answers(end)
    sys.stdout = sys.stderr = Printed(answer)
    WATCH.begun = lambda what: answer("at", what)
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
                answer("scores", [asdict(score) for score in scorer.score(*given)])
        except UserError as error:
            answer("mistake", str(error))
        except BaseException as error:
            unless_interrupted(error)
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
