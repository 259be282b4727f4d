"""The process that runs are forked from: ``python serve.py FD``, asked in lines of JSON on standard input, and
answering to the descriptor.

Loading torch and transformers takes seconds, and a fork of a process that has loaded them none. It has one thread and
has computed nothing: that is looked at before each fork.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LOADED = (
    *("upslope.cli.commands", "upslope.training.start", "upslope.inspect.report", "upslope.inspect.terminal"),
    *(
        "upslope.lab.pipeline.command",
        "upslope.config",
        "upslope.lab.rows",
        "transformers.models.llama.modeling_llama",
        "transformers.integrations",
    ),
    *("transformers.modeling_utils", "transformers.generation.utils", "pyarrow.parquet", "matplotlib.figure"),
    *("matplotlib.backends.backend_agg", "numpy.ctypeslib", "torch._dynamo", "torch.utils.checkpoint", "pandas"),
)
"""What a run loads on its way, where it is there."""


def load() -> None:
    """Everything that a run would load first."""
    from upslope.native.threads import before_torch

    before_torch()
    for name in (*LOADED, "peft"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    from matplotlib.figure import Figure

    from upslope.inspect import report
    from upslope.lab.pipeline import report as of_stages
    from upslope.native.build import library

    library()
    report.draw_journal = lambda journal, title: Figure((0.1, 0.1))  # drawing takes longer than the run
    of_stages.draw_stages = lambda stages, title: Figure((0.1, 0.1))


def num_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def answer(to: int, what: dict[str, Any]) -> None:
    os.write(to, json.dumps(what).encode() + b"\n")


def serve(to: int) -> dict[str, Any] | None:
    """Answer until there are no more questions (None); in a fork, return what it was asked to run."""
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer(to, {"code": os.waitstatus_to_exitcode(status)})
        else:
            assert num_threads() == 1, "a fork would lose the other threads"
            pid = os.fork()
            if not pid:
                return dict(asked)
            answer(to, {"pid": pid})
    return None


def become(asked: dict[str, Any]) -> None:
    """What a process of its own would be: its folder, arguments, streams and signals, and (``tap``) what ends it."""
    os.chdir(asked["cwd"])
    sys.argv = ["upslope", *asked["arguments"]]
    for number, place, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], None), (2, asked["err"], None)):
        kind = os.O_WRONLY | os.O_CREAT | os.O_APPEND if flags is None else flags
        opened = os.open(place, kind, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked["tap"]:
        folder, what, at, log = asked["tap"]
        ctypes.CDLL(None).tap_arm(folder.encode(), what, ctypes.c_long(at), log.encode())


def leave(program: Callable[[], None]) -> NoReturn:
    """Run it and end as an interpreter would, but without taking everything apart, which takes seconds."""
    code = 0
    try:
        program()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        code = 120  # as the interpreter does
    os._exit(code)


def main() -> None:
    load()
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, every page
    to = int(sys.argv[1])
    answer(to, {"threads": num_threads()})
    asked = serve(to)
    if asked is not None:
        os.close(to)
        become(asked)
        from upslope.cli import main as upslope

        leave(upslope)


if __name__ == "__main__":
    main()
