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
    *(
        "forks",
        "marks",
        "types",
        "errors",
        "bounds",
        "versions",
        "files",
        "native",
        "plugins",
        "text",
        "algo",
        "tasks",
        "model",
        "rollout",
    ),
    *("learn", "record", "training", "cluster", "prove", "inspect", "api", "config", "serve", "lab", "doctor", "cli"),
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


def room_of(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def violations(file: str, source: str) -> list[str]:
    """What a module imports though it must not."""
    own = room_of(file)
    allowed = set(ORDER[: ORDER.index(own) + 1]) if own in ORDER else set()
    bad = []
    for line, name in imported(source):
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
    assert {"types", "algo", "tasks", "model", "rollout", "training", "inspect", "cli"} <= rooms


@pytest.mark.parametrize("file", [file for file in FILES if file != "__init__.py"])  # the face names everything
def test_imports_go_upwards_only(file: str) -> None:
    assert violations(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("algo/x.py", "from upslope.tasks import base"),
        ("algo/x.py", "def f():\n    import upslope.cli"),
        ("algo/x.py", "from upslope import training"),
        ("training/x.py", "from upslope.inspect.terminal import TerminalView"),
        ("inspect/x.py", "from ..cli import app"),
        ("tasks/x.py", "import torch.nn"),
        ("types.py", "from upslope.errors import UserError"),
    ],
)
def test_a_forbidden_import_is_seen(file: str, source: str) -> None:
    assert len(violations(file, source)) == 1


def test_the_loop_knows_neither_ray_nor_vllm() -> None:
    names = imported((PACKAGE / "training" / "loop.py").read_text(encoding="utf-8"))
    assert not {name.partition(".")[0] for _, name in names} & {"ray", "vllm"}


def modules_imported_by() -> dict[str, set[str]]:
    """The modules of the package that each of them imports, in a function or for a type checker too."""
    names = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
    found: dict[str, set[str]] = {}
    for name, file in names.items():
        if name == "__init__":
            continue
        mentioned = {n.removeprefix("upslope.") for _, n in imported((PACKAGE / file).read_text(encoding="utf-8"))}
        # `from room import module`, or else `from room.module import name`
        modules = {n if n in names else n.rpartition(".")[0] for n in mentioned}
        found[name] = {n for n in modules & names.keys() if n != name}
    return found


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others: those that are left when all are gone that import none of the
    rest, or are imported by none of it."""
    left = {name: set(needed) for name, needed in imports.items()}
    while True:
        used = {n for needed in left.values() for n in needed}
        free = [name for name, needed in left.items() if not needed & left.keys() or name not in used]
        if not free:
            return sorted(left)
        for name in free:
            del left[name]


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles(modules_imported_by()) == []


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


@pytest.mark.parametrize("file", FILES)
def test_no_file_is_long(file: str) -> None:
    """About a screen for each purpose; beyond it a file has several."""
    assert len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) <= 300


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


def test_the_command_line_says_its_help_without_torch() -> None:
    assert not loaded_by("upslope.cli.commands") & {"torch", "transformers", "matplotlib"}


def test_training_loads_neither_ray_nor_vllm() -> None:
    loaded = loaded_by("upslope.training.loop")
    assert "torch" in loaded
    assert not loaded & {"ray", "vllm"}
