"""The command line; what each command does is said in its own docstring."""

from __future__ import annotations

import os
import sys

from upslope.errors import Stopped, UserError
from upslope.native.threads import before_torch


def main() -> None:
    """Entry point: a mistake a user can mend is one line and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    before_torch()
    try:
        from upslope.cli.commands import app  # here, so that Ctrl-C while it is loaded ends as everywhere

        app()  # Ctrl-C and a closed pipe are typer's: exit codes 130 and 1, nothing printed
    except Stopped as stopped:
        print(f"stopped; {stopped}")
        sys.exit(130)
    except (KeyboardInterrupt, Exception) as error:
        if _interrupted(error):
            sys.exit(130)
        _fail(_complaint(error))


def _complaint(error: BaseException) -> str:
    """What a user can mend, in words. Raises the error itself if it is none of that: a defect keeps its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        what = error.strerror or str(error) or type(error).__name__  # a full disk names no file
        return what if error.filename is None else f"{error.filename}: {what}"
    raise error


def _interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C, which libraries turn into errors of their own, above all while they are loaded."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(message: str) -> None:
    print(f"upslope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
