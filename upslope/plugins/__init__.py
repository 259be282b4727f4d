"""Objects out of the user's own Python files, by ``FILE.py:NAME``."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from upslope.errors import UserError, nearest
from upslope.plugins import files
from upslope.plugins.loading import module_of_file
from upslope.plugins.world import settle, world_of_file

LONGEST = 500
"""Characters that are quoted of what a user's object says."""
_IMPORTED: set[str] = set()
"""The files that were imported, as tracebacks name them."""


def is_own(value: Any) -> bool:
    """Whether a function, a class or an object of one is the package's and not a user's."""
    module = getattr(value, "__module__", None) or ""
    return module.partition(".")[0] == __name__.partition(".")[0] and not module.startswith(files.__name__)


def names_a_file(spec: str) -> bool:
    """Whether a text is of the form ``FILE.py:NAME``."""
    file, _, name = spec.rpartition(":")
    return file.endswith(".py") and bool(name)


def snake(name: str) -> str:
    """A class's name as run files write it.

    >>> snake("GroupZScore"), snake("KLBall")
    ('group_z_score', 'kl_ball')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def source(spec: str) -> str:
    """A hash of the file that ``FILE.py:NAME`` names; the text itself if it names none."""
    file = Path(spec.rpartition(":")[0])
    return hashlib.sha256(file.read_bytes()).hexdigest() if names_a_file(spec) and file.is_file() else spec


def load_object(spec: str, what: str, modules: dict[str, ModuleType] | None = None) -> Any:
    """The object called NAME in FILE.py; ``what`` it is for messages; ``modules`` keeps files already imported.

    Raises UserError for a spec of another form, a missing file or name, or a file that cannot be imported.
    """
    modules = {} if modules is None else modules
    if not names_a_file(spec):
        raise UserError(f"{what} {spec!r} is not of the form FILE.py:NAME, for example my_file.py:my_{what}")
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"there is no {what} file {file}")
    path = Path(file).resolve()
    place = str(path)  # one file is one module, whatever folder its path is written from
    if place not in modules:
        modules[place] = _import(path, file)
    if not hasattr(modules[place], name):
        own = [k for k, v in vars(modules[place]).items() if not k.startswith("_") and not inspect.ismodule(v)]
        raise UserError(f"{what} {spec!r}: {file} has no {name!r}{nearest(name, own)}")
    found = getattr(modules[place], name)
    settle(getattr(found, "__module__", None), world_of_file(path))  # it may come from a neighbour
    return found


def _import(path: Path, file: str) -> ModuleType:
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for imports that its code makes later, from anywhere; it shadows nothing there
    world = world_of_file(path)
    _IMPORTED.add(str(path))
    try:
        with world.inside(loading=True):
            module = module_of_file(path)
    except BaseException as error:
        unless_interrupted(error)
        raise UserError(f"importing {file} failed: {_why(error, str(path))}") from error
    settle(module.__name__, world)
    return module


def _why(error: BaseException, file: str) -> str:
    at = describe(error, file)
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SystemExit) and any(Path(frame.filename).name == "argparse.py" for frame in frames):
        place = at.partition(" at ")[2]
        return (
            f"it reads a command line (argparse){f' at {place}' if place else ''}, and there is none for it here; put "
            'that under if __name__ == "__main__":, or give its arguments defaults'
        )
    return at


def unless_interrupted(error: BaseException) -> None:
    """Of what a user's code raised, only Ctrl-C goes on as it is. All else is a fault of that code, ``sys.exit`` and
    the errors that ``except Exception`` lets through among it: none of them may end a run as if it were done."""
    if isinstance(error, KeyboardInterrupt):
        raise error


def blamed(error: BaseException) -> str:
    """What went wrong in a user's file that was imported, with the place there; empty if the error came from none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.filename for frame in frames if str(Path(frame.filename).resolve()) in _IMPORTED]
    return describe(error, own[-1]) if own else ""


def describe(error: BaseException, file: str) -> str:
    """Type, message and the deepest line in the user's own file (not in a library that it called)."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {' '.join(said(error, str).split())}{place}"


def file_of(code: Any) -> str:
    """The file of a class or a function, as tracebacks name it; empty if it has none (made by hand, or in a
    notebook)."""
    try:
        return inspect.getfile(code)
    except (TypeError, OSError):
        return ""


def said(value: object, how: Callable[[object], str] = repr) -> str:
    """What a user's object says of itself, where it can: its own ``__str__`` or ``__repr__`` may raise, or be long."""
    try:
        return f"{how(value):.{LONGEST}}"
    except BaseException as error:
        unless_interrupted(error)
        return f"<a {type(value).__name__} that cannot be printed>"
