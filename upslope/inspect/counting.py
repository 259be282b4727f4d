"""How far a count of many has come: a bar on a terminal, a line now and then anywhere else. Both tell the time left."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from upslope.inspect.words import duration

BETWEEN_LINES = 30.0
"""Seconds between two lines in a log."""
WINDOW = 10
"""Lines that the speed is measured over: what was found on the disk at the beginning is soon out of it."""

SayDone = Callable[[int, str], None]
"""Takes how many are done, and what else there is to say (may be empty)."""


@contextlib.contextmanager
def counted(
    console: Console, what: str, total: int, done: int = 0, *, clock: Callable[[], float] = time.monotonic
) -> Iterator[SayDone]:
    """Show how many of ``total`` are done, ``done`` of them before it begins, and the time left; ``what`` names them.

    The bar goes when the block ends, the lines of a log stay: ``attempts 128 of 1319, 15870 tokens, left 20:11``.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task(what, total=total, completed=done)
            yield lambda now, more: progress.update(bar, completed=now, description=f"{what} {more}".rstrip())
        return

    lines = deque([(done, clock())], maxlen=WINDOW)

    def told(now: int, more: str) -> None:
        if clock() - lines[-1][1] < BETWEEN_LINES:
            return
        before, since = lines[0]
        lines.append((now, clock()))
        left = (total - now) * (clock() - since) / (now - before) if now > before else float("nan")
        words = [f"{what} {now} of {total}", *([more] if more else []), f"left {duration(left)}"]
        console.print(", ".join(words), highlight=False, markup=False, soft_wrap=True)

    yield told
