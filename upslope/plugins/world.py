"""A user's file and the process around it: what its code sets holds for that code, and for nothing else.

Code of rewards and tasks is written for a process of its own. It changes the folder, turns gradients off, seeds
generators, reads the command line. Here it shares a process with a run, and with other files. So while it works
everything stands as its file has left it, and afterwards everything stands as it stood before.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from upslope.plugins.switches import ABSENT, SWITCHES, put, read


class FileWorld:
    """What one file's code finds around it."""

    def __init__(self, file: Path | None = None) -> None:
        """``file``: None for code that was handed in as an object."""
        self._folder = None if file is None else str(file.parent)
        self._set: dict[str, tuple[Any, Any]] = {}  # by switch that the file has set: before, and after
        if file is not None:
            self._set["sys.argv"] = ([], [str(file)])  # a command line of its own: upslope's is none of its business
        self._path: list[str] = []
        self._modules: dict[str, ModuleType] = {}  # that lie in its folder

    @contextlib.contextmanager
    def inside(self, *, loading: bool = False) -> Iterator[None]:
        """While it lasts, the file's code is at work. What it sets while it is ``loading`` holds for all its calls;
        what a call sets ends with that call, but for what ``lasts``.

        Outside the main thread nothing is changed: another thread would see it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = [read(switch) for switch in SWITCHES]
        for switch, now in zip(SWITCHES, ours, strict=True):
            if switch.name in self._set and now is not ABSENT:
                put(switch, switch.again(now, *self._set[switch.name]))
        try:
            with self._neighbours(loading=loading):
                yield
        finally:
            for switch, value in zip(SWITCHES, ours, strict=True):
                self._leave(switch, value, loading=loading)

    def _leave(self, switch: Any, ours: Any, *, loading: bool) -> None:
        theirs = read(switch)
        if ours is not ABSENT and theirs is not ABSENT and switch.same(theirs, ours):
            if loading or switch.lasts:
                self._set.pop(switch.name, None)
            return
        if (loading or switch.lasts) and theirs is not ABSENT and ours is not ABSENT:
            self._set[switch.name] = (ours, theirs)
        put(switch, ours)

    @contextlib.contextmanager
    def _neighbours(self, *, loading: bool) -> Iterator[None]:
        """While it lasts, an import looks into the file's own folder first, as for a script, and finds no module that
        another file's folder has under the same name."""
        path, before = list(sys.path), set(sys.modules)
        if self._folder is not None:
            first = self._path or [self._folder]
            sys.path[:] = [*first, *(p for p in path if p not in first)]
        hidden = {name: sys.modules.pop(name) for name in self._foreign() if name in sys.modules}
        hidden |= {n: sys.modules[n] for n, own in self._modules.items() if sys.modules.get(n, own) is not own}
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            self._path = list(sys.path) if self._folder is not None else []
            names = (sys.modules.keys() - before) | self._modules.keys() | hidden.keys()
            self._modules |= {name: sys.modules[name] for name in names if name in sys.modules and self._has(name)}
            sys.modules.update(hidden)
            # What a file adds while it is loaded stays, behind everything else, where it shadows nothing.
            sys.path[:] = path + ([p for p in self._path if p not in path] if loading else [])

    def _foreign(self) -> list[str]:
        """Modules of other files' folders that this one's folder has too."""
        others = {name for world in _WORLDS.values() if world._folder != self._folder for name in world._modules}
        return [name for name in others if name not in self._modules and self._offers(name.partition(".")[0])]

    def _offers(self, name: str) -> bool:
        if self._folder is None:
            return False
        place = Path(self._folder) / name
        return place.is_dir() or place.with_name(f"{name}.py").is_file()

    def _has(self, name: str) -> bool:
        """Whether a module lies in the folder itself, or in a package there."""
        top = sys.modules.get(name.partition(".")[0])
        places = [*(getattr(top, "__path__", None) or ())] or [getattr(top, "__file__", None)]
        return any(str(Path(place).parent) == self._folder for place in places if place)


_WORLDS: dict[str, FileWorld] = {}
"""By the file, and by the module that holds the code."""


def world_of_file(file: Path) -> FileWorld:
    """The world of a user's file, the same one whenever that is asked for."""
    return _WORLDS.setdefault(str(file), FileWorld(file))


def settle(module: object, world: FileWorld) -> None:
    """Code of this module (by its name) is at home in that world, unless it is in another one already."""
    if isinstance(module, str):
        _WORLDS.setdefault(module, world)


def world_of(module: object) -> FileWorld:
    """Where code of a module (by its name) is at home; code that was handed in has a world by module."""
    return _WORLDS.setdefault(str(module), FileWorld())
