"""Standard output of a command that prints data: nothing but that, whatever else is said in the process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_DATA: list[TextIO] = []
"""The streams in use, the innermost last."""


def data_stream() -> TextIO:
    """Where data goes: standard output."""
    return _DATA[-1] if _DATA else sys.stdout


@contextlib.contextmanager
def prints_aside() -> Iterator[TextIO]:
    """While it lasts, ``data_stream`` (which is yielded) is standard output, and what is printed goes to standard
    error: by Python, by libraries, by processes that are started."""
    out = sys.stdout
    if out is None:  # closed
        yield sys.stderr
        return
    number = _descriptor(out)
    kept = None if number is None else _moved(out, number)
    _DATA.append(out if kept is None else kept)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield _DATA[-1]
            _DATA[-1].flush()
    finally:
        stream = _DATA.pop()
        if kept is not None and number is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            os.dup2(stream.fileno(), number)
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more, which was said already
                stream.close()


def _descriptor(out: TextIO) -> int | None:
    """The number of standard output where the stream writes to it; None where it writes elsewhere (in a notebook)."""
    try:
        return 1 if out.fileno() == 1 else None
    except (OSError, ValueError, AttributeError):
        return None


def _moved(out: TextIO, number: int) -> TextIO:
    """A stream to where standard output goes now; descriptor ``number`` goes to standard error from here on."""
    out.flush()
    copy = os.dup(number)
    try:
        os.dup2(2, number)
    except OSError:  # standard error is closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    return os.fdopen(copy, "w", encoding=out.encoding, errors=out.errors, newline=None)
