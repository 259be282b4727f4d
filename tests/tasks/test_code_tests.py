"""What is a test in a row: forms that are run, forms that could test nothing, and whose names they use."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.code_names import names_of
from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine
from upslope.tasks.sandbox.pool import Limits

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)

RIGHT, WRONG = "def f(x): return x + 1", "def f(x): return 'wrong'"


def rewarded(program: str, partial: bool = False, **row: Any) -> float:
    task = CodeTask((), {}, Limits(seconds=2), partial)
    return task.score([task.build({"prompt": "p", "id": "x", **row}, "x")], [program])[0].reward


CASE = "import unittest\nclass T(unittest.TestCase):\n    def test_1(self):\n        self.assertEqual(f(1), 2)\n"
RUN: dict[str, str | list[str]] = {
    "functions of pytest": "def test_a():\n    assert f(1) == 2\n\ndef test_b():\n    assert f(2) == 3\n",
    "a function of pytest in a list": ["def test_a():\n    assert f(1) == 2"],
    "a function that is only called test": ["def test():\n    assert f(1) == 2"],
    "a function that is called": "def test_a():\n    assert f(1) == 2\ntest_a()",
    "a class of unittest": CASE,
    "a class of unittest and main": f"{CASE}unittest.main()",
    "a class of unittest and a guarded main": f"{CASE}if __name__ == '__main__':\n    unittest.main()",
    "a class of unittest by its own name": "from unittest import TestCase\n"
    "class T(TestCase):\n    def setUp(self): self.two = 2\n    def test(self): self.assertEqual(f(1), self.two)",
    "under a guard": "if __name__ == '__main__':\n    assert f(1) == 2\n",
    "in a loop": "for i in range(3):\n    assert f(i) == i + 1\n",
    "raise": "if f(1) != 2:\n    raise ValueError",
    "a comparison that fails": "try:\n    f(1) < None\nexcept TypeError:\n    assert f(1) == 2\nelse:\n    1 / 0",
    "a helper that asserts": "def check(candidate):\n    assert candidate(1) == 2\ncheck(f)",
}


@pytest.mark.parametrize("name", RUN)
def test_tests_of_many_forms_are_run(name: str) -> None:
    assert rewarded(RIGHT, tests=RUN[name]) == 1.0
    assert rewarded(WRONG, tests=RUN[name]) == 0.0


def test_every_function_of_pytest_is_a_test_of_its_own() -> None:
    assert rewarded("def f(x): return 2", partial=True, tests=RUN["functions of pytest"]) == 1 / 2


HUMAN = {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check(c):\n    assert c(1) == 2"}
NO_TESTS: dict[str, tuple[dict[str, Any], str]] = {
    "check alone": ({"tests": "def check(candidate):\n    assert candidate(1) == 2"}, "tests nothing"),
    "a comment": ({"tests": "# assert f(1) == 2\npass"}, "tests nothing"),
    "a text in a text": ({"tests": ["'assert f(1) == 2'"]}, "tests nothing"),
    "a comparison": ({"tests": ["f(1) == 2"]}, "write assert before 'f(1) == 2'"),
    "a comparison in a test": ({"tests": "def test_a():\n    f(1) == 2"}, "write assert before"),
    "a tuple": ({"tests": ["assert (f(1) == 2, 'msg')"]}, "is always true"),
    "a tuple in check": ({**HUMAN, "test": "def check(c):\n    assert (c(1), 2)"}, "is always true"),
    "an asserted text": ({"tests": ["assert 'f(1) == 2'"]}, "is always true"),
    "nothing of the program": ({"tests": ["assert 1 + 1 == 2"]}, "use nothing of the program"),
    "a check without tests": ({**HUMAN, "test": "def check(c): pass"}, "tests nothing"),
    "a check of something else": ({**HUMAN, "test": "def check(c):\n    assert g(1) == 2"}, "does not use"),
    "numpy": ({"tests": ["assert f(1) == 2"], "test_imports": ["import numpy as np"]}, "imports 'numpy'"),
    "numpy in check": ({**HUMAN, "test": f"import numpy as np\n{HUMAN['test']}"}, "imports 'numpy'"),
    "the solution as a module": ({"tests": ["from solution import f\nassert f(1) == 2"]}, "imports 'solution'"),
    "return": ({"tests": ["return 1"]}, "is no Python (line 1: 'return' outside function)"),
    "await": ({"tests": ["await f(1)"]}, "is no Python"),
    "two arguments": ({**HUMAN, "test": "def check(c, d):\n    assert c(1) == 2"}, "check with one argument"),
    "a keyword": ({**HUMAN, "entry_point": "class"}, "'entry_point'"),
}


@pytest.mark.parametrize("name", NO_TESTS)
def test_what_every_program_or_none_would_pass_is_refused(name: str) -> None:
    row, says = NO_TESTS[name]
    with pytest.raises(UserError) as caught:
        CodeTask((), {}, Limits()).build({"prompt": "p", **row}, "f row 1")
    assert str(caught.value).startswith("f row 1: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("tests", "solution", "prompt", "program"),
    [
        (["assert isclose(f(2), 4)"], None, "", ("f",)),
        (["assert isclose(f(2), 4)"], None, "Write isclose and f.", ("f", "isclose")),
        (["assert factorial(3) == 6"], None, "", ("factorial",)),
        (["assert mean(f(3)) == 6"], "def f(x): 0\ndef mean(x): 0", "", ("f", "mean")),
        (["assert mean(f(3)) == 6"], "from statistics import mean\ndef f(x): 0", "", ("f",)),
        (["def check(c):\n    total = c(1)\n    assert total == 1\ncheck(total)"], None, "", ("total",)),
        (["assert [n for n in [1]] == [n(1)]"], None, "", ("n",)),
        (["assert f(1) == 2", "for f in []: pass"], None, "", ("f",)),
        (["f = g(1)\nassert f", "assert f == 2"], None, "", ("g",)),
        (["def near(a):\n    global last\n    last = a\nnear(f)\nassert last"], None, "", ("f",)),
        (["assert sum(f(1)) == 1"], None, "", ("f",)),
    ],
)
def test_whose_names_tests_use(tests: list[str], solution: str | None, prompt: str, program: tuple[str, ...]) -> None:
    assert names_of(tests, solution, prompt).program == program


def test_a_name_that_tests_forgot_to_import_is_not_taken_from_the_program() -> None:
    cheat = "def isclose(*a): return True\ndef area(r): return 0"
    assert rewarded(cheat, tests=["assert isclose(area(2), 12.566370614359172)"]) == 0.0
    assert rewarded("def area(r): return r * 3.14", tests=["assert isclose(area(2), 6.28)"]) == 1.0
