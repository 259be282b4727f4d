"""Each room imports only from rooms that stand before it, or from itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import upslope

PACKAGE = Path(upslope.__file__).parent
ORDER = (
    *("types", "errors", "bounds", "versions", "native", "plugins", "algo", "tasks", "model", "rollout"),
    *("learn", "record", "train", "prove", "inspect", "api", "evaluation", "config", "lab", "doctor", "cli"),
)
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(source: str) -> list[tuple[int, str]]:
    """(line, full name) of everything a module imports, wherever in it; relative imports as ``.``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." if node.level else str(node.module)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def for_type_checkers(source: str) -> range:
    """The lines of a module's ``if TYPE_CHECKING:``, which never run."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return range(0)


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def violations(file: str, source: str) -> list[str]:
    """What a module imports though it must not."""
    own = room_of(file)
    allowed = set(ORDER[: ORDER.index(own) + 1]) if own in ORDER else set()
    bad = []
    # The package's own names are loaded when they are used; what it tells type checkers of them is no import.
    unread = for_type_checkers(source) if file == "__init__.py" else range(0)
    for line, name in imported(source):
        if line in unread:
            continue
        package, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        torch_in_tasks = own == "tasks" and package in ("torch", "transformers")
        # `from upslope import __version__` and `import upslope` ask the package itself, which imports nothing.
        later = package == "upslope" and room not in (*allowed, "__version__", "")
        if name.startswith(".") or torch_in_tasks or later:
            bad.append(f"{file}:{line} imports {name}")
    return bad


def test_every_room_has_its_place() -> None:
    rooms = {room_of(file) for file in FILES} - {"__init__", "__main__"}
    assert rooms <= set(ORDER)
    assert {"types", "algo", "tasks", "model", "rollout", "train", "inspect", "cli"} <= rooms


@pytest.mark.parametrize("file", FILES)
def test_imports_go_upwards_only(file: str) -> None:
    assert violations(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("algo/x.py", "from upslope.tasks import base"),
        ("algo/x.py", "def f():\n    import upslope.cli"),
        ("algo/x.py", "from upslope import train"),
        ("train/x.py", "from upslope.inspect.terminal import TerminalView"),
        ("inspect/x.py", "from ..cli import app"),
        ("tasks/x.py", "import torch.nn"),
        ("types.py", "from upslope.errors import UserError"),
        ("__init__.py", "from upslope.cli import main"),
        ("__init__.py", "if TYPE_CHECKING:\n    from upslope import tasks\nfrom upslope.api import train"),
        ("algo/x.py", "if TYPE_CHECKING:\n    from upslope.tasks import base"),
    ],
)
def test_a_forbidden_import_is_seen(file: str, source: str) -> None:
    assert len(violations(file, source)) == 1


def test_the_loop_knows_neither_ray_nor_vllm() -> None:
    names = imported((PACKAGE / "train" / "loop.py").read_text(encoding="utf-8"))
    assert not {name.partition(".")[0] for _, name in names} & {"ray", "vllm"}


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages in a fresh interpreter after importing these modules."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_tasks_leave_torch_alone() -> None:
    modules = [f"upslope.tasks.{path.stem}" for path in (PACKAGE / "tasks").glob("*.py") if path.stem != "__init__"]
    assert len(modules) >= 8
    loaded = loaded_by(*modules)
    assert "upslope" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "pyarrow"}


def test_the_package_alone_loads_nothing() -> None:
    assert not loaded_by("upslope") & {"torch", "transformers", "numpy", "pydantic"}


def test_the_command_line_says_its_help_without_torch() -> None:
    assert not loaded_by("upslope.cli") & {"torch", "transformers", "matplotlib"}


def test_training_loads_neither_ray_nor_vllm() -> None:
    loaded = loaded_by("upslope.train.loop")
    assert "torch" in loaded
    assert not loaded & {"ray", "vllm"}
