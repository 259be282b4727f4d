"""Standard output and error that may be closed, full or gone: a run goes on without them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console


class Unbreakable(io.TextIOBase):
    """A text stream that loses what it cannot write, and never says so: ``train | head -1`` ends its reader, a full
    disk its log, a closed terminal its screen, and none of them the run."""

    def __init__(self, stream: IO[str] | None) -> None:
        """None: what ``sys.stdout`` is where it was closed from the start."""
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def buffer(self) -> Any:
        """Of the stream itself: whoever writes bytes there is not protected."""
        if self._stream is None:
            raise io.UnsupportedOperation("there is no stream")
        return self._stream.buffer  # type: ignore[attr-defined]

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("there is no stream")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        """What is still in the stream's buffer goes nowhere: Python would try again when it ends, and complain."""
        stream, self._stream = self._stream, None
        with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
            if stream is not None:
                os.dup2(nowhere.fileno(), stream.fileno())


def console_aside() -> Console:
    """Standard error, for what long work says of itself: where it is gone, the work goes on."""
    return Console(file=unbreakable(sys.stderr))


def unbreakable(stream: IO[str] | None) -> IO[str]:
    """The stream as an ``Unbreakable``, for those who want any text stream."""
    return cast(IO[str], Unbreakable(stream))
