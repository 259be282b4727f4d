"""Which names that tests use are the program's, which are modules, and which are of Python's library.

A name that tests and setup code read and do not define before is the program's, with three exceptions, unless the
row's solution defines it: Python's builtins; a module of the standard library, used as ``math.isclose``, is imported;
and a public name of ``LENDERS`` (``isclose``, ``Counter``), which the tests forgot to import, is taken from there, or
the program would judge itself. Without a solution, such a name is the program's nevertheless if the prompt names it, or
if nothing of the program were left.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import symtable
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

LENDERS = (
    *("math", "collections", "itertools", "functools", "unittest", "re", "statistics", "cmath", "decimal"),
    "fractions",
)


class Names(NamedTuple):
    """The program's names, and the imports that the code forgot."""

    program: tuple[str, ...]
    imports: tuple[str, ...]


def names_of(codes: Sequence[str], solution: str | None, prompt: str) -> Names:
    """Whose names the codes use, which are run one after the other.

    >>> names_of(["assert isclose(math.sqrt(area(1)), 2)"], None, "Write it.")
    Names(program=('area',), imports=('import math', 'from math import isclose'))
    >>> names_of(["total = 1", "def near(total): return total\\nassert near(sum) == f"], "sum = 3", "")
    Names(program=('f', 'sum'), imports=())
    """
    with warnings.catch_warnings(action="ignore"):  # Python's, of how the code is written
        defined = _defined(solution)
        used = _free(codes)
        bases = {name for code in codes for name in _bases(code)}
    free = [name for name in used if name in (defined or ()) or not hasattr(builtins, name)]
    modules = [n for n in free if n in bases and n in sys.stdlib_module_names and n not in (defined or ())]
    rest = [name for name in free if name not in modules]
    if defined is None:
        lent = [name for name in rest if name in _lent() and not re.search(rf"\b{name}\b", prompt)]
        lent = lent if set(lent) != set(rest) else []
    else:
        lent = [name for name in rest if name in _lent() and name not in defined]
    imports = [*(f"import {name}" for name in modules), *(f"from {_lent()[name]} import {name}" for name in lent)]
    return Names(tuple(name for name in rest if name not in lent), tuple(imports))


def _free(codes: Sequence[str]) -> list[str]:
    free: set[str] = set()
    written: set[str] = set()
    for code in codes:
        reads, writes = _globals(symtable.symtable(code, "<test>", "exec"))
        free |= reads - writes - written
        written |= writes
    return sorted(free)


def _globals(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """What code reads of, and writes into, the names at its margin."""
    reads, writes = set(), set()
    for scope in _scopes(table):
        for symbol in scope.get_symbols():
            if scope is not table and not symbol.is_global():
                continue
            if symbol.is_referenced():
                reads.add(symbol.get_name())
            if symbol.is_assigned() or symbol.is_imported():
                writes.add(symbol.get_name())
    return reads, writes


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _bases(code: str) -> Iterator[str]:
    """Names that code takes attributes of."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.value.id


def _defined(solution: str | None) -> set[str] | None:
    """What a solution defines and does not import; None where there is none, or none that can be read."""
    if solution is None:
        return None
    try:
        table = symtable.symtable(solution, "<solution>", "exec")
    except (SyntaxError, ValueError):
        return None
    return {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() and not symbol.is_imported()}


@cache
def _lent() -> dict[str, str]:
    """Public names by their modules; those of one letter are rather a program's."""
    lent: dict[str, str] = {}
    for module in LENDERS:
        found = importlib.import_module(module)
        for name in getattr(found, "__all__", vars(found)):
            if len(name) > 1 and not name.startswith("_"):
                lent.setdefault(name, module)
    return lent
