"""Whose code is at work, said where it takes long: a reward that hangs would otherwise show nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from upslope.plugins import said
from upslope.types import Problem

Tell = Callable[[str], None]

PATIENCE = 30.0
"""Seconds after which it is said."""


def _aside(line: str) -> None:
    print(f"upslope: {line}", file=sys.stderr)


class Watch:
    """What the code that was called last is at, in this process."""

    def __init__(self) -> None:
        self.say: Tell = _aside
        self.begun: Tell = lambda what: None
        """Told of every beginning."""
        self.depth = 0
        """Calls under way in the main thread, whose end a signal may not wait for."""
        self.stop: BaseException | None = None
        """What a signal raised in such a call, which may have swallowed it."""


WATCH = Watch()


@contextlib.contextmanager
def at_work(what: str) -> Iterator[None]:
    """While it lasts, ``what`` is at work; after ``PATIENCE`` seconds that is said, once.

    Code that holds Python's lock all the time (one long regular expression) holds this up too; only a process of its
    own can be watched then (``task.reward_workers``).
    """
    WATCH.begun(what)
    line = (
        f"{what} has been at work for {PATIENCE:g} s; Ctrl-C twice stops at once, and task.reward_timeout=SECONDS "
        "sets a limit"
    )
    timer = threading.Timer(PATIENCE, lambda: WATCH.say(line))
    timer.daemon = True
    timer.start()
    try:
        with not_to_wait_for():
            yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def not_to_wait_for() -> Iterator[None]:
    """While it lasts, the main thread is in code that may never return. What a signal raised in there is raised at its
    end once more: a reward with a bare ``except`` would make a wrong answer of it, which somebody learns from."""
    here = threading.current_thread() is threading.main_thread()
    WATCH.depth += here
    try:
        yield
    finally:
        WATCH.depth -= here
        if here and not WATCH.depth and WATCH.stop is not None:
            stop, WATCH.stop = WATCH.stop, None
            raise stop


@contextlib.contextmanager
def said_to(say: Tell) -> Iterator[None]:
    """While it lasts, ``say`` is told instead of standard error."""
    before, WATCH.say = WATCH.say, say
    try:
        yield
    finally:
        WATCH.say = before


def user_code_is_at_work() -> bool:
    """Whether the main thread is in code of a user's, which may never return."""
    return WATCH.depth > 0


def on(problems: Sequence[Problem]) -> str:
    """Of which problems, in words."""
    if not problems:
        return "on nothing"
    several = f" (a batch of {len(problems)})" if len(problems) > 1 else ""
    return f"on {said(problems[0].id, str)}{several}"
