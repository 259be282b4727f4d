"""The tool that upslope has of its own: Python, in the sandbox of task code (docs/code.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upslope.tasks.sandbox.pool import LONGEST_OUTPUT, Limits, Zygote

LIMITS = Limits()
"""Of a call."""
MOST_PRINTED = 4000
"""Characters of what a program prints that are shown: the first half of them, and the last."""
_TELLING = """
try:
    exec(compile({code!r}, "program", "exec", dont_inherit=True), globals())
except SystemExit:
    raise
except BaseException as error:
    import sys, traceback
    sys.__stdout__.flush()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "program"]
    where = f"line {{lines[-1]}}: " if lines else ""
    print(where + "".join(traceback.format_exception_only(error)).strip(), file=sys.__stdout__)
    sys.exit(1)
"""
"""Has a program say what it raised, behind what it printed: nothing else comes out of the sandbox."""


def python(code: str) -> str:
    """
    Run a Python program and read what it prints. It has no files, no network, and only the standard library.

    Args:
        code: The program.
    """
    zygote = Zygote(LIMITS)
    try:
        ended = zygote.run(_TELLING.format(code=code), "")
    finally:
        zygote.close()
    text = shortened(ended.output.decode(errors="replace"))
    if ended.late:
        raise TimeoutError(f"the program took longer than {LIMITS.seconds} s; it had printed: {text}")
    if len(ended.output) == LONGEST_OUTPUT:
        raise RuntimeError(f"the program printed more than {LONGEST_OUTPUT:,} bytes: {text}")
    if not ended.well:
        raise RuntimeError(f"the program failed; it printed: {text}")
    return text


def shortened(text: str) -> str:
    """Text of which the middle is left out if it is longer than ``MOST_PRINTED``, and that it is.

    >>> shortened("4")
    '4'
    >>> shortened("a" * 5000)[1990:2050]
    'aaaaaaaaaa\\n[1000 characters are left out]\\naaaaaaaaaaaaaaaaaa'
    """
    left, half = len(text) - MOST_PRINTED, MOST_PRINTED // 2
    return text if left <= 0 else f"{text[:half]}\n[{left} characters are left out]\n{text[-half:]}"


BUILT_IN: Mapping[str, Callable[..., Any]] = {"python": python}
"""Tools by a name of their own."""
