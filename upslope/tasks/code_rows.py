"""What a row of task ``code`` says: the exercise, its tests, and a solution to imitate. Four shapes are understood.

================  =====================================================================================================
MBPP              ``text`` or ``prompt``, and ``test_list`` (assert statements); may have ``test_setup_code``,
                  ``test_imports`` and ``code``, a solution. ``challenge_test_list`` is left alone, as usual.
HumanEval         ``prompt`` (the beginning of a function), ``entry_point`` (its name) and ``test`` (code that defines
                  ``check(candidate)``); may have ``canonical_solution``, which continues the prompt
general           ``prompt`` and ``tests``: assert statements as a list, or as a text of Python
scripts           ``prompt``, ``inputs`` and ``outputs``: lists of texts, what a program reads and what it should write
================  =====================================================================================================

A row of any shape may have ``demonstration`` (a whole response, shown as it is, instead of a solution), ``id`` or
``task_id``, and ``split``. Where a list cannot be written (CSV) it may be a text: JSON.

Each item of a list of tests is one test. In a text, every ``assert`` at the margin is one, together with the statements
before it, and a text without any is one test. ``check`` is one test. A pair of input and output is one, passed if the
program ends without an error and writes that output; spaces at the ends of lines, and blank lines at the end, do not
matter.

Names that tests and setup code use and do not define are the program's (as are those that the solution defines, even if
Python has one of that name); a module of the standard library that they use as ``math.isclose`` is imported for them.
Of a HumanEval program only ``entry_point`` is: helpers are taken from the prompt.
"""

from __future__ import annotations

import ast
import builtins
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.tasks.code_program import COMPLETE, FUNCTION, SCRIPT, fenced, with_body
from upslope.tasks.columns import Fields, listed

FIELDS: Fields = (
    *(("prompt", "text"), ("test_list", "tests", "test"), ("test_setup_code",), ("test_imports",), ("entry_point",)),
    *(("inputs",), ("outputs",), ("code", "canonical_solution", "demonstration"), ("id", "task_id"), ("split",)),
)


@dataclass(frozen=True)
class Exercise:
    """What is asked for, and what judges a program.

    >>> row = {"prompt": "Add one.", "tests": ["assert f(1) == 2"], "code": "def f(x):\\n    return x + 1"}
    >>> exercise = exercise_of(row, "here")
    >>> exercise.names, exercise.tests, exercise.instruction
    (('f',), ('assert f(1) == 2',), 'Answer with Python code in one ```python block.')
    """

    prompt: str
    instruction: str
    tests: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """What the tests use of the program."""
    before: tuple[str, ...] = ()
    """Code that the tests rely on, run before those names are the program's."""
    after: tuple[str, ...] = ()
    """The same, run after it."""
    entry: str | None = None
    """The function that the prompt begins, which a program completes."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Of a script: inputs and outputs."""
    demonstration: str | None = None

    @property
    def num_tests(self) -> int:
        return len(self.tests) or len(self.pairs)


def has_tests(row: Mapping[str, Any]) -> bool:
    """Whether a row brings what judges a program."""
    return any(row.get(key) is not None for key in ("test_list", "tests", "test", "inputs", "outputs"))


def exercise_of(row: Mapping[str, Any], where: str) -> Exercise:
    """The exercise in a row. Raises UserError, beginning with ``where``, if it has no prompt or no tests."""
    prompt = _one_of(row, ("prompt", "text"), where)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: needs 'prompt' or 'text', a non-empty text; it has {listed(row)}")
    if row.get("inputs") is not None or row.get("outputs") is not None:
        return _script(row, prompt, where)
    if row.get("entry_point") is not None:
        return _completion(row, prompt, where)
    return _functions(row, prompt, where)


def _functions(row: Mapping[str, Any], prompt: str, where: str) -> Exercise:
    found = _one_of(row, ("test_list", "tests"), where)
    if found is None:
        raise UserError(
            f"{where}: has no tests; give 'tests' or 'test_list', 'test' with 'entry_point', or 'inputs' with "
            f"'outputs' (it has {listed(row)})"
        )
    tests = _tests(found, where)
    setup = [*_codes(row, "test_imports", where), *_codes(row, "test_setup_code", where)]
    solution = row.get("code")
    defined = _defined(solution) if isinstance(solution, str) else set()
    used = _used((*setup, *tests), defined)
    modules = [name for name, as_module in used.items() if as_module]
    if row.get("test_list") is not None:
        prompt = f"{prompt.rstrip()}\n\nIt should pass this test:\n{tests[0]}"
    return Exercise(
        prompt,
        FUNCTION,
        tests=tests,
        names=tuple(name for name in used if name not in modules),
        after=(*(f"import {name}" for name in modules), *setup),
        demonstration=_demonstration(row, solution, where),
    )


def _completion(row: Mapping[str, Any], prompt: str, where: str) -> Exercise:
    entry, test = row["entry_point"], row.get("test")
    if not isinstance(entry, str) or not entry.isidentifier():
        raise UserError(f"{where}: 'entry_point' must be the name of a function, not {entry!r:.60}")
    if not isinstance(test, str) or "check" not in _defined(_parsed(test, f"{where}: 'test'")):
        raise UserError(f"{where}: needs 'test', Python code that defines check(candidate); it has {listed(row)}")
    _parsed(with_body(prompt), f"{where}: 'prompt' (the beginning of a function)")
    solution = row.get("canonical_solution")
    whole = prompt + solution if isinstance(solution, str) else None
    return Exercise(
        prompt,
        COMPLETE,
        tests=(f"check({entry})",),
        names=(entry,),
        before=(with_body(prompt),),
        after=(test,),
        entry=entry,
        demonstration=_demonstration(row, whole, where),
    )


def _script(row: Mapping[str, Any], prompt: str, where: str) -> Exercise:
    if any(row.get(key) is not None for key in ("test_list", "tests", "test")):
        raise UserError(f"{where}: has both tests and inputs; keep one kind")
    inputs, outputs = (_texts(row.get(key), key, where) for key in ("inputs", "outputs"))
    if not inputs or len(inputs) != len(outputs):
        raise UserError(
            f"{where}: has {len(inputs)} inputs and {len(outputs)} outputs; there must be as many, not none"
        )
    pairs = tuple(zip(inputs, outputs, strict=True))
    return Exercise(prompt, SCRIPT, pairs=pairs, demonstration=_demonstration(row, row.get("code"), where))


def _demonstration(row: Mapping[str, Any], solution: Any, where: str) -> str | None:
    shown = row.get("demonstration")
    for key, value in (("demonstration", shown), ("the solution", solution)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{where}: {key} must be text, not a {type(value).__name__}")
    return shown if shown is not None else None if solution is None else fenced(solution)


def _one_of(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    found = [name for name in names if row.get(name) is not None]
    if len(found) > 1:
        raise UserError(f"{where}: has both {found[0]!r} and {found[1]!r}, which say the same; keep one")
    return row[found[0]] if found else None


def _tests(found: Any, where: str) -> tuple[str, ...]:
    listed_ = _as_list(found)
    if isinstance(listed_, str):
        tests = _split(_parsed(listed_, f"{where}: the tests"))
    else:
        tests = list(_texts(listed_, "tests", where))
        for place, test in enumerate(tests, 1):
            _parsed(test, f"{where}: test {place}")
    if not tests or not all(test.strip() for test in tests):
        raise UserError(f"{where}: has no tests, or an empty one; give assert statements")
    return tuple(tests)


def _split(tree: ast.Module) -> list[str]:
    """A text of tests, cut behind every assert at the margin."""
    parts: list[list[ast.stmt]] = [[]]
    for statement in tree.body:
        parts[-1].append(statement)
        if isinstance(statement, ast.Assert):
            parts.append([])
    last = parts.pop()
    if last and parts:
        parts[-1] += last
    elif last:
        parts = [last]
    return [ast.unparse(ast.Module(part, [])) for part in parts]


def _codes(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Code that a row brings beside its tests: none, a text, or a list of texts."""
    found = _as_list(row.get(key))
    codes = [found] if isinstance(found, str) else [] if found is None else _texts(found, key, where)
    for code in codes:
        _parsed(code, f"{where}: {key!r}")
    return [code for code in codes if code.strip()]


def _texts(found: Any, key: str, where: str) -> list[str]:
    found = _as_list(found)
    if not isinstance(found, list | tuple) or not all(isinstance(item, str) for item in found):
        raise UserError(f"{where}: {key!r} must be a list of texts, not {found!r:.60}")
    return list(found)


def _as_list(found: Any) -> Any:
    """A text that is a list in JSON as that list."""
    if isinstance(found, str) and found.lstrip().startswith("["):
        try:
            return json.loads(found)
        except ValueError:
            return found
    return found


def _parsed(code: str, what: str) -> ast.Module:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{what} is no Python ({why}); mend or drop the row") from None


def _defined(code: str | ast.Module) -> set[str]:
    """What code defines at its margin; of code that is none, nothing."""
    try:
        tree = ast.parse(code) if isinstance(code, str) else code
    except (SyntaxError, ValueError):
        return set()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {statement.name for statement in tree.body if isinstance(statement, kinds)}


def _used(codes: tuple[str, ...], defined: set[str]) -> dict[str, bool]:
    """Names that code reads and does not itself define, in the order of their first use, each with whether it can only
    be a module of the standard library."""
    reads: dict[str, None] = {}
    writes: set[str] = set()
    tree = ast.parse("\n".join(codes))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                reads[node.id] = None
            else:
                writes.add(node.id)
        elif isinstance(node, ast.arg):
            writes.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            writes.add(node.name)
        elif isinstance(node, ast.alias):
            writes.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            writes.add(node.name)
    free = [name for name in reads if name not in writes and (name in defined or not hasattr(builtins, name))]
    bases = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    return {name: name in bases & sys.stdlib_module_names and name not in defined for name in free}
