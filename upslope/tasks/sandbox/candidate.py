"""What runs in the process of the program: nothing of the tests is in it but the arguments that they pass."""

from __future__ import annotations

import atexit
import builtins
import gc
import sys
from contextlib import suppress
from types import ModuleType

from upslope.tasks.sandbox.peer import Peer


def serve_program(program: str, reads: int, writes: int) -> None:
    """Run the program as a module that is imported (so not its ``if __name__ == "__main__"``), then let the tests use
    what it defines. A program that fails leaves nobody to answer."""
    module = ModuleType("program")
    _run(program, module)
    Peer(reads, writes, module.__dict__).serve()


def run_script(program: str) -> None:
    """Run the program as ``python FILE`` would, from standard input to standard output."""
    for name, stream in (("stdin", open(0, closefd=False)), ("stdout", open(1, "w", closefd=False))):  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    module = ModuleType("__main__")
    try:
        _run(program, module)
    finally:
        atexit._run_exitfuncs()
        for last in (sys.stdout, sys.__stdout__):
            with suppress(ValueError, AttributeError):  # it closed one, or put something else there
                last.flush()  # type: ignore[union-attr]
        module.__dict__.clear()  # a writer of its own is flushed when nobody holds it any more
        gc.collect()


def _run(program: str, module: ModuleType) -> None:
    sys.modules[module.__name__] = module  # dataclasses look their module up
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # site would bring them
    exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
