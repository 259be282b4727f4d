"""The command line; what each command does is said in its own docstring."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from upslope import __version__
from upslope.cli import ladder, look, measure, train
from upslope.cli.options import app
from upslope.errors import Stopped, UserError
from upslope.native.threads import ask_for_same_bits

__all__ = ["app", "ladder", "look", "main", "measure", "train"]  # each module adds its commands to the app


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"upslope {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a mistake a user can mend is one line and exit code 2, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_WAIT_POLICY" not in os.environ:
        # How long an idle thread keeps asking for work (read when torch is loaded). By default for milliseconds, which
        # on a machine that has something else to do halves the speed; briefly costs nothing where it has not.
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    ask_for_same_bits()  # before torch is loaded
    try:
        app()  # Ctrl-C and a closed pipe are typer's: exit codes 130 and 1, nothing printed
    except (KeyboardInterrupt, ImportError) as error:
        if not _interrupted(error):
            raise
        sys.exit(130)
    except Stopped as stopped:
        print(f"stopped; {stopped}")
        sys.exit(130)
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        what = error.strerror or str(error) or type(error).__name__  # a full disk names no file
        _fail(what if error.filename is None else f"{error.filename}: {what}")


def _interrupted(error: BaseException | None) -> bool:
    """Whether it began with Ctrl-C, which transformers turns into an error of its own while it is being imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(message: str) -> None:
    print(f"upslope: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
