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

``upslope.tasks.code_tests`` says what is a test, ``upslope.tasks.code_names`` which names are the program's. ``check``
is one test. A pair of input and output is one, passed if the program ends without an error and writes that output;
spaces at the ends of lines, and blank lines at the end, do not matter.

Of a HumanEval program only ``entry_point`` is: helpers are taken from the prompt.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.tasks.code_names import names_of
from upslope.tasks.code_program import COMPLETE, FUNCTION, SCRIPT, completed, fenced, with_body
from upslope.tasks.code_tests import one_test, parsed, require_check, split_tests
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
    solution: str | None = None
    """A whole program that should pass."""

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
    names = names_of((*setup, *tests), solution if isinstance(solution, str) else None, prompt)
    if not names.program:
        raise UserError(f"{where}: its tests use nothing of the program, so every program passes; mend or drop the row")
    if row.get("test_list") is not None:
        prompt = f"{prompt.rstrip()}\n\nIt should pass this test:\n{tests[0]}"
    return Exercise(
        prompt,
        FUNCTION,
        tests=tests,
        names=names.program,
        after=(*names.imports, *setup),
        demonstration=_demonstration(row, solution, where),
        solution=solution,
    )


def _completion(row: Mapping[str, Any], prompt: str, where: str) -> Exercise:
    entry, test = row["entry_point"], row.get("test")
    if not isinstance(entry, str) or not entry.isidentifier() or keyword.iskeyword(entry):
        raise UserError(f"{where}: 'entry_point' must be the name of a function, not {entry!r:.60}")
    if not isinstance(test, str):
        raise UserError(f"{where}: needs 'test', Python code that defines check(candidate); it has {listed(row)}")
    parsed(with_body(prompt), f"{where}: 'prompt' (the beginning of a function)")
    require_check(test, entry, where)
    solution = row.get("canonical_solution")
    whole = solution
    if isinstance(solution, str) and solution.strip():
        whole = completed(prompt, entry, solution)
    return Exercise(
        prompt,
        COMPLETE,
        tests=(f"check({entry})",),
        names=(entry,),
        before=(with_body(prompt),),
        after=(test,),
        entry=entry,
        demonstration=_demonstration(row, whole, where),
        solution=whole,
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
    solution = row.get("code")
    shown = _demonstration(row, solution, where)
    return Exercise(prompt, SCRIPT, pairs=pairs, demonstration=shown, solution=solution)


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
        tests = split_tests(listed_, f"{where}: the text of tests")
    else:
        tests = [one_test(test, f"{where}: test {at}") for at, test in enumerate(_texts(listed_, "tests", where), 1)]
    if not tests or not all(tests):
        raise UserError(f"{where}: has no tests, or an empty one; give assert statements")
    return tuple(tests)


def _codes(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Code that a row brings beside its tests: none, a text, or a list of texts."""
    found = _as_list(row.get(key))
    codes = [found] if isinstance(found, str) else [] if found is None else _texts(found, key, where)
    for code in codes:
        parsed(code, f"{where}: {key!r}")
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
