"""What runs in the process of the program: nothing of the tests is in it but the arguments that they pass."""

from __future__ import annotations

import sys
from types import ModuleType

from upslope.tasks.sandbox.peer import Peer


def serve_program(program: str, reads: int, writes: int) -> None:
    """Run the program as a module that is imported (so not its ``if __name__ == "__main__"``), then let the tests use
    what it defines. A program that fails leaves nobody to answer."""
    names = _run(program, "program")
    Peer(reads, writes, names).serve()


def run_script(program: str) -> None:
    """Run the program as ``python FILE`` would, from standard input to standard output."""
    for name, stream in (("stdin", open(0, closefd=False)), ("stdout", open(1, "w", closefd=False))):  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    try:
        _run(program, "__main__")
    finally:
        sys.stdout.flush()


def _run(program: str, name: str) -> dict[str, object]:
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__
