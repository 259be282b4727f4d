"""The one exception for mistakes a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from signal import SIGINT


class UserError(Exception):
    """One line: what is wrong, where (file and row, key, slot), and how to mend it. The CLI prints it and exits 2."""


class Unavailable(UserError):
    """What is wrong is the machine's or the network's, not the command's: no room, no memory, no answer."""


class NonFinite(UserError):
    """A logit, loss, gradient or weight that is not finite: the run stops there, and says where it was."""


class Stopped(Exception):
    """Ctrl-C, SIGTERM or SIGHUP: the step was finished and a checkpoint written; the message says how to go on."""

    def __init__(self, message: str, signal: int = SIGINT) -> None:
        super().__init__(message)
        self.signal = signal


def of_system(error: OSError) -> str:
    """What an error of the system says, with the file where it names one: a full disk does not.

    >>> of_system(FileNotFoundError(2, "No such file or directory", "a.txt")), of_system(OSError("odd"))
    ('a.txt: No such file or directory', 'odd')
    """
    what = error.strerror or str(error) or type(error).__name__
    return what if error.filename is None else f"{error.filename}: {what}"


def nearest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'X'?"`` for the closest known word, or a list of what there is; nothing where that is nothing.

    >>> nearest("grop", ["grpo", "rft"])
    "; did you mean 'grpo'?"
    >>> nearest("zzz", ["grpo", "rft"])
    '; known: grpo, rft'
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


class Exhausted(Exception):
    """There is nothing left to learn from under the run's own settings; the message is the cause."""
