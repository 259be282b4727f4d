"""Runs a case through the entry point of the command line, in this process, under a watchdog."""

from __future__ import annotations

import faulthandler
import io
import signal
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from malformed.case import Case
from upslope.cli import LONGEST_MESSAGE, main

SECONDS = 60
"""After which a command hangs: none needs a fifth of it, on a machine with other work too."""


class Hang(KeyboardInterrupt):
    """The watchdog's; the one kind of error that a command never takes for its user's."""


class Outcome(NamedTuple):
    code: int
    out: str
    err: str
    hung: bool


def run(case: Case, folder: Path, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Outcome:
    """What the command of a case does in its folder."""
    case.prepare(folder)
    patch.chdir(folder)
    patch.setenv("UPSLOPE_CACHE", str(folder.parent / "cache"))  # kernels are compiled once
    patch.setenv("COLUMNS", "160")
    patch.setattr(sys, "path", list(sys.path))
    patch.setattr(sys, "argv", ["upslope", *case.words])
    patch.setattr(sys, "stdin", None if case.stdin is None else io.StringIO(case.stdin))
    patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command sets its own
    capfd.readouterr()
    with watched() as seen, warnings.catch_warnings():
        warnings.simplefilter("default")  # as outside of pytest: a warning is a line
        try:
            main()
            code = 0
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int)
            code = end.code or 0
    return Outcome(code, *capfd.readouterr(), hung=bool(seen))


@contextmanager
def watched() -> Iterator[list[int]]:
    """A list that holds something afterwards if what was done took too long and was broken off."""
    seen: list[int] = []

    def late(number: int, frame: Any) -> None:
        seen.append(number)
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True, file=2)
    try:
        yield seen
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def complaints(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong about how a command took its input; empty if nothing is."""
    said = outcome.out + outcome.err
    lines = [line for line in outcome.err.splitlines() if line]
    errors = [line for line in lines if line.startswith("upslope: ")]
    last = lines[-1] if lines else ""
    found = {
        "it hangs": outcome.hung,
        f"it exits {outcome.code}": outcome.code != (0 if case.accepted else case.code),
        "a traceback": "Traceback" in said,
        "a control character": any(unicodedata.category(c) in ("Cc", "Cs") and c != "\n" for c in said),
    }
    if not case.accepted:
        found |= {
            "its last line is no error of upslope's": not last.startswith("upslope: "),
            "a line that is not upslope's": len(errors) < len(lines),
            f"{len(last)} characters": len(last) > LONGEST_MESSAGE,
            f"it does not say {case.says!r}": case.says not in last,
        }
    return [what for what, wrong in found.items() if wrong]
