"""Which code of a row is a test, and which of it could test nothing or be passed by nobody.

In a text, every ``assert`` at the margin is one test, together with the statements before it; so is every ``def
test_...()`` without arguments and every class of ``unittest.TestCase``, which are run. Each item of a list is one.
``unittest.main()`` is left out, and what stands under ``if __name__ == "__main__"`` is run.

Refused, where it stands: what is no Python; a test that only defines, or only compares (``f(1) == 2``), or asserts a
tuple or a text, which is always true; imports of what is not in Python's own library.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Sequence

from upslope.errors import UserError

_TEST = re.compile("test(_|$)")
_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(code: str, what: str) -> ast.Module:
    """The tree of code that can be compiled and run. Raises UserError, beginning with ``what``."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code)
            compile(code, "<test>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{what} is no Python ({why}); mend or drop the row") from None
    for name in _imported(tree):
        if name not in sys.stdlib_module_names:
            raise UserError(
                f"{what} imports {name!r}, and only Python's own library is there; names that tests use and do not "
                "define are the program's, so drop the import or the row"
            )
    return tree


def split_tests(code: str, what: str) -> list[str]:
    """The tests in a text."""
    tree = parsed(code, what)
    parts: list[list[ast.stmt]] = [[]]
    for statement in tree.body:
        parts[-1].append(statement)
        if isinstance(statement, ast.Assert) or _calls_of((statement,), tree):
            parts.append([])
    last = parts.pop()
    if last and parts:
        parts[-1] += last
    elif last:
        parts = [last]
    return [_completed(part, tree, what) for part in parts]


def one_test(code: str, what: str) -> str:
    """An item of a list as one test: as it is written, if it needs no more; nothing, if it is empty."""
    tree = parsed(code, what)
    if not code.strip():
        return ""
    whole = _completed(tree.body, tree, what)
    return code if whole == ast.unparse(tree) else whole


def require_check(code: str, entry: str, where: str) -> None:
    """Raise UserError unless the code of a HumanEval row defines a ``check`` that tests what it is given."""
    what = f"{where}: 'test'"
    tree = parsed(code, what)
    found = [s for s in tree.body if isinstance(s, ast.FunctionDef) and s.name == "check"]
    if not found:
        raise UserError(f"{where}: needs 'test', Python code that defines check(candidate)")
    arguments = found[-1].args
    named = [*arguments.posonlyargs, *arguments.args]
    wanted = len(named) - len(arguments.defaults), [d for d in arguments.kw_defaults if d is None]
    if not named or wanted[0] > 1 or wanted[1]:
        raise UserError(f"{what} must define check with one argument, the function; mend or drop the row")
    _require_sense(found[-1].body, what)
    if not {named[0].arg, entry} & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}:
        raise UserError(f"{what} does not use the function that check is given; mend or drop the row")


def _completed(statements: Sequence[ast.stmt], tree: ast.Module, what: str) -> str:
    """A test that calls what it defines, if nothing else does."""
    whole = ast.Module([*statements, *_calls_of(statements, tree)], [])
    _require_sense(whole.body, what)
    return ast.unparse(ast.fix_missing_locations(_WithoutMain().visit(whole)))


def _calls_of(statements: Sequence[ast.stmt], tree: ast.Module) -> list[ast.stmt]:
    """Calls of the tests that are defined at the margin, and that nothing there calls."""
    called = {n.func.id for n in _outside(tree.body) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    calls = []
    for statement in statements:
        if isinstance(statement, ast.FunctionDef):
            if _TEST.match(statement.name) and not statement.args.args and statement.name not in called:
                calls.append(f"{statement.name}()")
        elif isinstance(statement, ast.ClassDef) and any(_is_test_case(base) for base in statement.bases):
            loader = "__import__('unittest').defaultTestLoader"
            calls.append(f"{loader}.loadTestsFromTestCase({statement.name}).debug()")
    return ast.parse("\n".join(calls)).body


def _is_test_case(base: ast.expr) -> bool:
    return ast.unparse(base).rpartition(".")[2] == "TestCase"


class _WithoutMain(ast.NodeTransformer):
    """Leaves out ``unittest.main()``, which would look for tests elsewhere and exit."""

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        is_main = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "unittest.main"
        return ast.Pass() if is_main else node


def _require_sense(body: Sequence[ast.stmt], what: str) -> None:
    """Raise UserError for a test that every program passes."""
    nodes = list(_outside(body))
    if not any(isinstance(node, ast.Assert | ast.Raise | ast.Call) for node in nodes):
        raise UserError(f"{what} tests nothing: it asserts and calls nothing but in what it defines; mend the row")
    for statement in (inner for outer in body for inner in ast.walk(outer)):
        if isinstance(statement, ast.Assert) and (
            (isinstance(statement.test, ast.Tuple) and statement.test.elts)
            or (isinstance(statement.test, ast.Constant) and isinstance(statement.test.value, str))
        ):
            raise UserError(f"{what} tests nothing: {_shown(statement)} is always true; mend the row")
    for statement in _plain_statements(body):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Compare | ast.BoolOp):
            raise UserError(f"{what} tests nothing: write assert before {_shown(statement)}")


def _shown(statement: ast.stmt) -> str:
    return repr(" ".join(ast.unparse(statement).split())[:60])


def _outside(statements: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """All nodes that are run at once: not those in functions and lambdas."""
    for node in statements:
        yield node
        if not isinstance(node, _DEFINITIONS | ast.Lambda):
            yield from _outside([*ast.iter_child_nodes(node)])


def _plain_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements whose errors nothing waits for: not those under ``try`` and ``with``."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.Try | ast.With | ast.AsyncWith | ast.TryStar):
            yield from _plain_statements([s for s in ast.iter_child_nodes(statement) if isinstance(s, ast.stmt)])


def _imported(tree: ast.AST) -> Iterator[str]:
    """The packages that code cannot do without."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "").partition(".")[0]
        elif not isinstance(node, ast.Try):
            yield from _imported(node)
