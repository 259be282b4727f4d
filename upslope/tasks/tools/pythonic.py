"""Calls of tools that are written as Python: read as a tree and never run.

- a list, ``[add(a=1), add(a=2)]`` (Llama 3.2 and 4, Gemma 3);
- lines between ``tool_code`` fences (Gemma), each a call, or ``print`` of one, or one that is given a name;
- after ``<|python_tag|>`` (Llama 3): ``search.call(query="x")``, a call, or else a program, for a tool called python.

Arguments are values (numbers, texts, lists, tables); one that is computed cannot be read.
"""

from __future__ import annotations

import ast
import re

from upslope.tasks.tools.call import Call

CODE_FENCE, RESULT_FENCE = "```tool_code", "```tool_output"
"""Gemma's words for what it calls, and for what came of it."""
PROGRAM_TOOL = "python"
"""Which tool a program is for, and the name of its parameter."""
PROGRAM = "code"
_FENCED = re.compile(rf"{CODE_FENCE}[ \t]*\n?(.*?)(?:```|$)", re.DOTALL)
_LISTED = re.compile(r"\[\s*[A-Za-z_][\w.]*\s*\(.*\)\s*,?\s*\]", re.DOTALL)


def listed_calls(text: str) -> list[Call]:
    """A whole turn that is a list of calls; nothing if it is none.

    >>> listed_calls("[add(a=1, b=[2]), sub(3)]")[0].arguments, listed_calls("[1, 2]")
    ({'a': 1, 'b': [2]}, [])
    """
    if not _LISTED.fullmatch(text):
        return []
    statements = _statements(text) or [ast.Pass()]
    listed = statements[0].value if isinstance(statements[0], ast.Expr) else None
    if len(statements) > 1 or not isinstance(listed, ast.List):
        return []
    found = listed.elts
    return [_of(each) for each in found if isinstance(each, ast.Call)] if _all_calls(found) else []


def calls_in_fences(text: str) -> list[Call]:
    """Every call between fences, in order."""
    found: list[Call] = []
    for code in _FENCED.findall(text):
        statements = _statements(code.strip())
        read = [_unprinted(each) for each in statements or ()]
        calls = [_of(each) for each in read if isinstance(each, ast.Call)]
        if not statements or len(calls) != len(read):
            calls = [Call("", fault=f"a line of tool_code is one call of a tool, not {code.strip():.80}")]
        found += calls
    return found


def calls_after_tag(code: str) -> list[Call]:
    """The calls after a tag for Python."""
    statements = _statements(code) or []
    read = [_unprinted(each) for each in statements] if "print" not in code else []
    called = [each for each in read if isinstance(each, ast.Call) and _named(each.func)]
    if called and len(called) == len(statements):
        found = [_of(each) for each in called]
        if not any(each.fault for each in found):
            return found
    return listed_calls(code) or [Call(PROGRAM_TOOL, {PROGRAM: code})]


def _statements(code: str) -> list[ast.stmt] | None:
    try:
        return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _unprinted(statement: ast.stmt) -> ast.expr | None:
    """The expression of a line, without what prints it or names it."""
    value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
    if isinstance(value, ast.List) and len(value.elts) == 1:
        value = value.elts[0]
    if isinstance(value, ast.Call) and _named(value.func) == "print" and len(value.args) == 1:
        value = value.args[0]
    return value


def _all_calls(found: list[ast.expr]) -> bool:
    return bool(found) and all(isinstance(each, ast.Call) and _named(each.func) for each in found)


def _named(function: ast.expr) -> str:
    """``add`` of ``add``, ``tools.add`` of ``tools.add``, ``search`` of ``search.call``; empty for anything else."""
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and (of := _named(function.value)):
        return of if function.attr == "call" else f"{of}.{function.attr}"
    return ""


def _of(call: ast.Call) -> Call:
    name = _named(call.func)
    try:
        positional = tuple(ast.literal_eval(each) for each in call.args)
        arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords if each.arg is not None}
        if len(arguments) < len(call.keywords):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        written = ast.unparse(call)
        return Call(name, fault=f"arguments must be values, not names or computed: {written:.80}")
    return Call(name, arguments, positional=positional)
