"""Standard output that is closed, full or gone ends nothing."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from upslope.inspect import counting
from upslope.inspect.counting import counted
from upslope.inspect.screen import Unbreakable, console_aside
from upslope.inspect.terminal import TerminalView


class Broken(io.StringIO):
    def __init__(self, error: Exception, at: str) -> None:
        super().__init__()
        self.error, self.at = error, at

    def write(self, text: str, /) -> int:
        if self.at == "write":
            raise self.error
        return super().write(text)

    def flush(self) -> None:
        if self.at == "flush":
            raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), OSError(5, "gone"), ValueError("closed")])
@pytest.mark.parametrize("at", ["write", "flush"])
def test_what_cannot_be_written_is_lost(error: Exception, at: str) -> None:
    screen = Unbreakable(Broken(error, at))
    for _ in range(3):
        assert screen.write("hello") == 5
        screen.flush()


def test_there_may_be_no_stream_at_all() -> None:
    screen = Unbreakable(None)
    assert screen.write("hello") == 5 and not screen.isatty() and screen.encoding == "utf-8"


def test_a_stream_that_works_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        screen = Unbreakable(file)
        screen.write("hello")
        screen.flush()
    assert (tmp_path / "out").read_text() == "hello"


def test_what_is_left_in_the_buffer_does_not_fail_later() -> None:
    """Python flushes a stream once more when it ends, and would complain with an exit code of its own."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        screen = Unbreakable(stream)
        screen.write("hello")
        screen.flush()
        stream.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_view_on_a_full_disk_shows_nothing_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        view = TerminalView()
        view.start("run", "a recipe", 10)
        view.message("x" * 100_000)
        view.close(True)
        full.flush()


def test_long_work_goes_on_where_standard_error_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BETWEEN_LINES", 0.0)
    for lost in (Broken(BrokenPipeError(), "write"), None):
        monkeypatch.setattr(sys, "stderr", lost)
        with counted(console_aside(), "attempts", 8) as told:
            told(4, "28 tokens")
