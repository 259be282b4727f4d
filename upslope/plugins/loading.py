"""A user's file as a module: under its own name where that is free, as if a script beside it had imported it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from upslope.plugins.files import name_by_place

RELATIVE = re.compile(r"^\s*from\s+\.", re.MULTILINE)
"""An import that only a part of a package can make."""


def module_of_file(file: Path) -> ModuleType:
    """The module of an absolute path; ``sys.path`` begins with its folder. Raises whatever the file raises."""
    parts, root = [file.stem], file.parent
    if (root / "__init__.py").is_file() and RELATIVE.search(file.read_text(encoding="utf-8", errors="replace")):
        while (root / "__init__.py").is_file():
            parts, root = [root.name, *parts], root.parent
        if str(root) not in sys.path:
            sys.path.append(str(root))
    name = ".".join(parts)
    if not _is_free(name, file):
        name = name_by_place(file)
    sys.modules.pop(name, None)  # asked for anew, it is read anew: somebody may have edited it since
    module = importlib.import_module(name)
    _LOADED[name] = str(file)
    return module


_LOADED: dict[str, str] = {}
"""The file of every module that was loaded here, by name."""


def _is_free(name: str, file: Path) -> bool:
    """Whether nobody else has that name, and an import of it, in this process or in one that it starts, finds this
    file."""
    if _LOADED.get(name, str(file)) != str(file) or (name in sys.modules and name not in _LOADED):
        return False
    known = sys.modules.pop(name, None)
    try:
        importlib.invalidate_caches()
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return False
    finally:
        if known is not None:
            sys.modules[name] = known
    return spec is not None and spec.origin == str(file)
