"""Objects and exceptions of a program, as its tests see them."""

from __future__ import annotations

import sys

import pytest

from upslope.errors import UserError
from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine
from upslope.tasks.sandbox.pool import Limits

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


def paid(program: str, test: str, setup: str = "") -> float:
    task = CodeTask((), {}, Limits(seconds=2))
    row = {"prompt": "p", "id": "x", "tests": [test], "test_setup_code": setup}
    return task.score([task.build(row, "x")], [program])[0].reward


@pytest.mark.parametrize(
    "test",
    [
        "cases = [(3, 9), (4, 16)]\nassert all(map(lambda c: f(c[0]) == c[1], cases))",
        "for got, want in zip(map(f, [3, 4]), [9, 16]):\n    assert got == want",
        "assert [g for g in map(f, [3])] in ([], [9])",
    ],
)
@pytest.mark.parametrize("error", ["StopIteration", "StopIteration(9)", "StopAsyncIteration", "GeneratorExit"])
def test_a_call_does_not_end_a_loop_of_the_tests(test: str, error: str) -> None:
    assert paid("def f(x): return x * x", test) == 1.0
    assert paid(f"def f(x): raise {error}", test) == 0.0


@pytest.mark.parametrize(
    ("test", "right"),
    [
        ("assert callable(f(1))", "lambda: 0"),
        ("from collections.abc import Iterator\nassert isinstance(f(1), Iterator)", "iter([])"),
        ("from collections.abc import Iterable\nassert isinstance(f(1), Iterable)", "memoryview(b'')"),
        ("from collections.abc import Sized\nassert isinstance(f(1), Sized)", "memoryview(b'')"),
        ("assert hasattr(f(1), '__getitem__')", "memoryview(b'')"),
    ],
)
def test_an_object_can_do_what_it_can(test: str, right: str) -> None:
    assert paid(f"def f(x): return {right}", test) == 1.0
    assert paid("def f(x): return object()", test) == 0.0


BOX = (
    "class Box:\n    def __init__(self, n, inner=None): self.n, self.inner = n, inner\n    def me(self): return self\n"
)


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (BOX, "b = Box(1)\nassert b is b.me() and b == b.me() and b != Box(1)"),
        (f"{BOX}def f(b): return b.inner", "b = Box(1, Box(2))\nassert f(b).n == 2 and f(b).me().n == 2"),
        (f"{BOX}def f(): return [Box(1), Box(2)]", "assert [b.n for b in f()] == [1, 2] and callable(Box)"),
        (
            "from enum import Enum\nclass Color(Enum):\n    RED = 1\ndef f(): return Color.RED",
            "assert f() == Color.RED and Color.RED is Color.RED",
        ),
    ],
)
def test_an_object_is_itself_and_stays_open(program: str, test: str) -> None:
    assert paid(program, test) == 1.0


def test_a_constant_with_a_capital_opens_nothing() -> None:
    liar = "class Liar:\n    def __getattr__(self, name): return lambda *a: True\n"
    assert paid(f"{liar}Limit = 3\ndef f(x): return Liar()", "assert Limit == 3 and f(1).isalpha()") == 0.0


@pytest.mark.parametrize(
    ("raising", "caught"),
    [
        ("b'\\xff'.decode()", "UnicodeDecodeError"),
        ("raise type('Own', (UnicodeDecodeError,), {'__init__': lambda *a: None})('x')", "ValueError"),
        ("raise ExceptionGroup('a', [ValueError()])", "Exception"),
        ("next(iter([]))", "RuntimeError"),
    ],
)
def test_an_exception_arrives_as_the_nearest_that_can_be_made(raising: str, caught: str) -> None:
    test = f"try:\n    f()\nexcept {caught}:\n    ok = True\nassert ok"
    assert paid(f"def f():\n    {raising}", test) == 1.0
    assert paid("def f(): return 1", test) == 0.0


def test_an_object_that_a_function_of_the_test_returns_cannot_travel_either() -> None:
    with pytest.raises(UserError, match="x: a test hands over a A, which cannot travel"):
        paid("def f(g):\n    g()\n    return 1", "class A: pass\nassert f(lambda: A()) == 1")


def test_setup_that_no_program_can_pass_stops_the_run() -> None:
    with pytest.raises(UserError, match=r"x: what the tests rely on fails .*ValueError: no; again"):
        paid("def f(x): return 1", "assert f(1) == 1", "def g(): raise ValueError('no;\\nagain')\ng()")
    assert paid("def g(x): return 1", "assert f(1) == 1", "x = f(1)") == 0.0  # the program's own fault
    assert paid("def f(x): 1 / 0", "assert f(1) == 1", "def g(): return f(1)\ng()") == 0.0


def test_a_beginning_that_cannot_be_run_stops_the_run() -> None:
    task = CodeTask((), {}, Limits())
    test = "def check(c):\n    assert c(1) == 1"
    row = {"prompt": "def f(x: List[int]):\n", "entry_point": "f", "test": test, "id": "x"}
    with pytest.raises(UserError, match="NameError: name 'List' is not defined"):
        task.score([task.build(row, "x")], ["from typing import List\ndef f(x): return 1"])
