"""One name, one thing: no two classes, and no two public functions, of the package share a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import upslope

PACKAGE = Path(upslope.__file__).parent
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
}
SAME_NAMES = ("api.py", "native/torch_", "native/triton_")
"""Files that have names of others on purpose: what ``import upslope`` offers, and the plain values of the kernels."""
MEANT_TO_BE = {"by_hand", "off_policy", "refused", "surrogate", "weights", "open"}
"""A claim's own helpers, since each proof is read by itself; and how a task's module is opened."""
LEFT = {"Mix", "Product", "Row", "at_least", "check", "draw", "rectangle", "score", "sides"}
"""Names that still mean two things: this list may only get shorter."""


def things(source: str) -> set[str]:
    """Classes, aliases of types and public functions that a module defines at its top level."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and not node.name.startswith("_")):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found |= {name for name in names if name[0].isupper() and not name.isupper()}
    return found


def shared(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Names with more than one home, each with its homes."""
    homes = defaultdict(list)
    for file, source in sources.items():
        for name in () if file.startswith(SAME_NAMES) else things(source):
            homes[name].append(file)
    return {name: files for name, files in homes.items() if len(files) > 1}


def test_no_name_means_two_things() -> None:
    found = shared(SOURCES)
    assert {name: files for name, files in found.items() if name not in MEANT_TO_BE | LEFT} == {}


def test_what_is_excepted_is_there() -> None:
    assert set(shared(SOURCES)) >= MEANT_TO_BE


def test_a_name_given_twice_is_seen() -> None:
    one, other = "class Table:\n    pass\nRow = dict[str, int]\n", "Table = list[int]\ndef show():\n    pass\n"
    found = shared(
        {"a.py": one, "b.py": other, "c.py": "def show():\n    pass\ndef _row():\n    pass\n", "api.py": one}
    )
    assert found == {"Table": ["a.py", "b.py"], "show": ["b.py", "c.py"]}
