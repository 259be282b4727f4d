"""The tool that upslope has of its own: Python, in the sandbox of task code (docs/code.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upslope.tasks.sandbox.pool import Limits, Zygote

MOST_PRINTED = 4000
"""Characters of what a program prints that are shown."""


def python(code: str) -> str:
    """
    Run a Python program and read what it prints. It has no files, no network, and only the standard library.

    Args:
        code: The program.
    """
    zygote = Zygote(Limits())
    try:
        well, output = zygote.run(code, "")
    finally:
        zygote.close()
    text = output.decode(errors="replace")[:MOST_PRINTED]
    if not well:
        raise RuntimeError(f"the program failed, or ran out of time or memory; it had printed: {text}")
    return text


BUILT_IN: Mapping[str, Callable[..., Any]] = {"python": python}
"""Tools by a name of their own."""
