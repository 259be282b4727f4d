"""The command line; what each command does is said in its own docstring.

Exit codes: 0 every step was done · 1 a claim or a check failed · 2 a mistake that the user can mend · 3 the machine or
the network (no room, no memory, no answer) · 70 a defect of upslope, with its traceback · 128 + n stopped by signal n
(130 Ctrl-C, 143 SIGTERM, 129 SIGHUP).
"""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
import traceback
import warnings
from typing import Any, TextIO

from upslope.errors import Stopped, Unavailable, UserError, of_system
from upslope.native.threads import before_torch
from upslope.plugins import said

MISTAKE, MACHINE, DEFECT, INTERRUPTED = 2, 3, 70, 130
LONGEST_MESSAGE = 2000
"""Characters of an error's line: what is quoted in it may be of any length."""
_MACHINES = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EIO", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EROFS", "ESTALE", "ENXIO", "ENODEV"),
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENETUNREACH", "ENETDOWN", "EHOSTUNREACH", "ETIMEDOUT"),
    )
    if hasattr(errno, name)
)


def main() -> None:
    """Entry point: a mistake a user can mend is one line, never a traceback; a defect of ours is loud."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    before_torch()
    warnings.formatwarning = _warning
    try:
        from upslope.cli.commands import app  # here, so that Ctrl-C while it is loaded ends as everywhere

        app()  # Ctrl-C and a closed pipe are typer's: exit codes 130 and 1, nothing printed
    except Stopped as stopped:
        _say(f"stopped; {stopped}", sys.stdout)
        sys.exit(128 + stopped.signal)
    except (KeyboardInterrupt, Exception) as error:
        if _interrupted(error):
            sys.exit(INTERRUPTED)
        message, code = _complaint(error)
        if code == DEFECT:
            traceback.print_exception(error)
        _say(f"upslope: {message}", sys.stderr)
        sys.exit(code)
    finally:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # libraries clean up, and would print a traceback


def _warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """One line, without the place in the code, and without anything that acts on a terminal."""
    from upslope.inspect.words import visible

    return f"upslope: {visible(' '.join(str(message).split()))}\n"


def _complaint(error: BaseException) -> tuple[str, int]:
    """What is wrong, in words, and the exit code."""
    if isinstance(error, UserError):
        machine = isinstance(error, Unavailable) or _is_machines(error.__cause__)
        return str(error), MACHINE if machine else MISTAKE
    if isinstance(error, OSError):
        return of_system(error), MACHINE if _is_machines(error) else MISTAKE
    if _is_machines(error):
        return f"there is not enough memory: {error or type(error).__name__}", MACHINE
    return f"this is a defect of upslope, not of your command: {type(error).__name__}", DEFECT


def _is_machines(error: BaseException | None) -> bool:
    """Whether the machine or the network is at fault, and the same command could do elsewhere or later."""
    if isinstance(error, OSError):
        return error.errno in _MACHINES or isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, RuntimeError):  # torch's
        return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said(error, str)
    return isinstance(error, MemoryError)


def _interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C, which libraries turn into errors of their own, above all while they are loaded."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _say(message: str, where: TextIO | None) -> None:
    """One line, whatever is quoted in it, to a stream that may be closed or full."""
    from upslope.inspect.screen import Unbreakable
    from upslope.inspect.words import shorten, visible

    screen = Unbreakable(where)
    line = shorten(visible(" ".join(message.split())), LONGEST_MESSAGE)
    screen.write(line.encode(screen.encoding, "replace").decode(screen.encoding) + "\n")
    screen.flush()
