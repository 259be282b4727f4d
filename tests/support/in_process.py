"""The command line in the test's own process."""

from __future__ import annotations

import io
import sys
from typing import NamedTuple

import pytest

from upslope.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


def upslope_says(
    patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, stdin: str | None = None
) -> Said:
    """What ``upslope WORDS`` says; what was said before is left out. ``stdin`` None: the process's own."""
    patch.setattr(sys, "argv", ["upslope", *words])
    if stdin is not None:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code is None or isinstance(end.value.code, int)
    return Said(end.value.code or 0, *capsys.readouterr())
