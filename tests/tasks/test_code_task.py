"""Task ``code``: rows of every shape, what of a response is the program, rewards, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from exercises import HUMAN

from upslope.errors import UserError
from upslope.tasks.code_program import completed
from upslope.tasks.code_task import CodeTask
from upslope.tasks.registry import open_task
from upslope.tasks.sandbox import confine, pool
from upslope.tasks.sandbox.pool import Limits

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)

MBPP = {
    "task_id": 2,
    "text": "Write a function to add one.",
    "code": "def add_one(x):\r\n  return x + 1",
    "test_list": ["assert add_one(1) == 2", "assert add_one(-1) == 0"],
    "test_setup_code": "",
    "challenge_test_list": ["assert add_one(2) == 4"],
}
GENERAL = {"prompt": "Define two, which is 2.", "tests": "x = two\nassert int(str(x)) == 2\nassert two == 2"}
SCRIPT = {"prompt": "Add the numbers.", "inputs": ["1 2\n", "3\n4"], "outputs": ["3\n", "7"]}

_ADD = "import sys\nn = [int(x) for x in sys.stdin.read().split()]\n"


def build(row: dict[str, Any], **options: Any) -> Any:
    return CodeTask((), {}, Limits(seconds=1), **options).build(row, "f row 1")


def reward(row: dict[str, Any], response: str, **options: Any) -> float:
    task = CodeTask((), {}, Limits(seconds=1), **options)
    return task.score([task.build({"id": "x", **row}, "f row 1")], [response])[0].reward


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_rows_of_every_format_are_read(ending: str, tmp_path: Path) -> None:
    file, rows = tmp_path / f"rows.{ending}", [{**MBPP, "task_id": i, "text": f"Task {i}"} for i in range(40)]
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "json":
        file.write_text(json.dumps(rows))
    elif ending == "csv":
        import csv

        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "test_list": json.dumps(row["test_list"])} for row in rows)
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    task = open_task("code", data=str(file))
    problems = [*task.problems("train"), *task.problems("test")]
    assert sorted(int(problem.id) for problem in problems) == list(range(40))
    scores = task.score(problems[:3], ["def add_one(x): return x + 1", "def add_one(x): return 2", "x"])
    assert [score.reward for score in scores] == [1.0, 0.0, 0.0]
    assert task.demonstrations()[0].demonstration == "```python\ndef add_one(x):\r\n  return x + 1\n```"


def test_columns_of_another_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"{i}?", "asserts": ["assert f() == 1"]} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task("code", data=str(file), columns={"prompt": "question", "tests": "asserts"})
    problem = task.problems("train")[0]
    assert task.score([problem], ["def f(): return 1"])[0].reward == 1.0


def test_what_the_model_is_told() -> None:
    told = build(MBPP).messages[0]["content"]
    assert told.startswith("Write a function to add one.\n\nIt should pass this test:\nassert add_one(1) == 2\n\n")
    assert "-1" not in told
    assert "def quarter" in build(HUMAN).messages[0]["content"]
    assert "standard input" in build(SCRIPT).messages[0]["content"]
    assert build(GENERAL, instruction="").messages[0]["content"] == GENERAL["prompt"]
    assert build(GENERAL, instruction="Be short.").messages[0]["content"].endswith("2.\n\nBe short.")
    assert build(HUMAN, instruction="").messages[0]["content"] == HUMAN["prompt"]


def test_helpers_of_a_prompt_are_not_the_programs() -> None:
    """Otherwise ``half`` as 1 would make check agree with itself."""
    cheat = "def half(x): return 1\ndef quarter(x): return 1"
    only_helper = {**HUMAN, "test": "def check(candidate):\n    assert candidate(4) == half(half(4))\n"}
    assert reward(only_helper, cheat) == 1.0  # right for 4 alone, by chance
    assert reward(only_helper, cheat.replace("1", "2")) == 0.0
    assert completed("def f():\n", "f", "def fg(): pass").startswith("def f():\n    def fg")


@pytest.mark.parametrize(
    ("row", "half_right", "share"),
    [
        (MBPP, "def add_one(x): return 2", 1 / 2),
        (GENERAL, "two = 3", 0.0),
        (
            GENERAL,
            "class Two:\n    def __str__(self): return '2'\n    def __eq__(self, _): return True\ntwo = Two()",
            0.0,
        ),
        (SCRIPT, "print(sum(map(int, input().split())))", 1 / 2),
        (MBPP, "def add_one(x):\n    if x < 0:\n        while True: pass\n    return x + 1", 1 / 2),
    ],
)
def test_the_share_of_tests(row: dict[str, Any], half_right: str, share: float) -> None:
    assert reward(row, half_right, partial=True) == share
    assert reward(row, half_right) == 0.0


@pytest.mark.parametrize(
    ("program", "right"),
    [
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", True),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())), '  \\n\\n')", True),
        ("a = open(0).read().split()\nimport sys\nsys.stdout.write(str(int(a[0]) + int(a[1])))\nsys.exit(0)", True),
        (
            "if __name__ == '__main__':\n    import sys\n    print(sum(int(n) for l in sys.stdin for n in l.split()))",
            True,
        ),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(1)", False),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))\n1 / 0", False),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nwhile True: pass", False),
        (f"{_ADD}print(sum(n))\nexit()", True),
        (f"{_ADD}print(sum(n))\nquit(0)", True),
        (f"{_ADD}print(sum(n))\nexit(1)", False),
        (f"{_ADD}print(sum(n))\nsys.stdout.close()", True),
        (f"{_ADD}print(sum(n))\nsys.stdout = None", True),
        (f"{_ADD}out = open(1, 'w')\nout.write(str(sum(n)))", True),
        (f"{_ADD}import io\nold, sys.stdout = sys.stdout, io.StringIO()\nold.write(str(sum(n)))", True),
        (f"{_ADD}import atexit\natexit.register(lambda: print(sum(n)))", True),
        (f"{_ADD}sys.stdout.write(f'{{sum(n)}}\\n' + ' ' * (2**22 - 2) + '9')", False),
        ("print(3)", False),
        ("print(' 3')\nprint(7)", False),
        ("def main(): pass", False),
    ],
)
def test_scripts(program: str, right: bool) -> None:
    assert reward(SCRIPT, program) == float(right)


def test_values_that_a_program_names_are_looked_at_anew_by_every_test() -> None:
    row = {
        "prompt": "p",
        "tests": ["assert items == []\nadd(1)", "assert items == [1] and LIMIT == 3 and Kind is not LIMIT"],
    }
    program = "items, LIMIT = [], 3\ndef add(x): items.append(x)\nclass Kind: pass"
    assert reward(row, program) == 1.0
    assert reward(row, program.replace("append(x)", "append(2)")) == 0.0
    assert reward(row, program.replace("items, LIMIT", "things, LIMIT")) == 0.0


def test_a_function_that_is_not_written_is_not_the_one_that_the_prompt_begins() -> None:
    test = "def check(candidate):\n    assert candidate(4) is None\n"
    row = {**HUMAN, "test": test, "canonical_solution": None}
    assert reward(row, "def quarter(x): return None") == 1.0
    assert reward(row, "def quarter(x): return None\ndel quarter") == 0.0


def test_setup_and_imports_of_tests_are_run() -> None:
    row = {
        "prompt": "Add a left child.",
        "test_list": [
            "assert depth(root) == 2",
            "assert math.isclose(depth(root), 2)",
            "assert sqrt(depth(leaf)) == 1",
        ],
        "test_imports": ["from math import sqrt"],
        "test_setup_code": "root = Node(1)\nroot.left = Node(2)\nleaf = Node(3)",
    }
    program = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return 0 if node is None else 1 + depth(node.left)
"""
    assert reward(row, program) == 1.0
    assert reward(row, program.replace("1 +", "2 +")) == 0.0


def test_a_function_that_is_called_like_one_of_pythons_is_the_programs() -> None:
    row = {"prompt": "p", "tests": ["assert sum(1, 2) == 3"], "code": "def sum(a, b): return a + b"}
    assert reward(row, "def sum(a, b): return a + b") == 1.0
    assert reward(row, "def total(a, b): return a + b") == 0.0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"tests": ["assert f()"]}, "needs 'prompt' or 'text'"),
    "two prompts": ({"prompt": "p", "text": "q", "tests": ["assert f()"]}, "both 'prompt' and 'text'"),
    "no tests": ({"prompt": "p"}, "has no tests"),
    "an empty list": ({"prompt": "p", "tests": []}, "has no tests"),
    "an empty text": ({"prompt": "p", "tests": " "}, "has no tests"),
    "an empty test": ({"prompt": "p", "tests": ["assert f()", ""]}, "has no tests, or an empty one"),
    "tests twice": ({"prompt": "p", "tests": ["assert f()"], "test_list": ["assert f()"]}, "keep one"),
    "tests that are numbers": ({"prompt": "p", "tests": [1]}, "must be a list of texts"),
    "a test that is no Python": ({"prompt": "p", "tests": ["assert f()", "assert ="]}, "test 2 is no Python"),
    "setup that is no Python": ({"prompt": "p", "tests": ["assert f()"], "test_setup_code": "("}, "'test_setup_code'"),
    "no check": ({"prompt": "def f():\n", "entry_point": "f", "test": "assert f()"}, "defines check(candidate)"),
    "no name": ({"prompt": "def f():\n", "entry_point": "f()", "test": "def check(c): pass"}, "'entry_point'"),
    "no beginning": ({"prompt": "Write f", "entry_point": "f", "test": "def check(c): pass"}, "'prompt'"),
    "inputs alone": ({"prompt": "p", "inputs": ["1"]}, "'outputs' must be a list of texts"),
    "fewer outputs": ({"prompt": "p", "inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    "no pairs": ({"prompt": "p", "inputs": [], "outputs": []}, "0 inputs"),
    "both kinds": ({"prompt": "p", "inputs": ["1"], "outputs": ["1"], "tests": ["assert f()"]}, "keep one kind"),
    "a solution that is no text": ({"prompt": "p", "tests": ["assert f()"], "code": 1}, "must be text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_row_without_sense_is_refused_where_it_stands(name: str) -> None:
    row, says = REFUSED[name]
    with pytest.raises(UserError) as caught:
        build(row)
    assert str(caught.value).startswith("f row 1: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_such_a_row_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(MBPP) + "\n" + json.dumps({"prompt": "p"}) + "\n")
    with pytest.raises(UserError, match=r"rows\.jsonl row 2: has no tests"):
        open_task("code", data=str(file)).problems("train")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seconds": 0}, "from 1 to 600"),
        ({"seconds": 10**6}, "from 1 to 600"),
        ({"seconds": 1.5}, "a whole number"),
        ({"memory_mb": 1}, "at least 64"),
        ({"partial": 1}, "true or false"),
        ({"network": True}, "no option 'network'"),
    ],
)
def test_options_have_bounds(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_task("code", options=options)


def test_the_least_memory_is_enough() -> None:
    task = CodeTask((), {}, Limits(seconds=1, memory_mb=64))
    assert task.score([task.build(MBPP, "x")], ["def add_one(x): return x + 1"])[0].reward == 1.0


def test_a_test_that_hands_over_what_cannot_travel_is_the_rows_fault() -> None:
    row = {"prompt": "p", "tests": ["class Own: pass\nassert f(Own()) == 1"]}
    with pytest.raises(UserError, match="x: a test hands over a Own, which cannot travel"):
        reward(row, "def f(x): return 1")


def test_an_object_that_a_function_returns_is_not_asked_what_it_is() -> None:
    """Its methods would say whatever pays; those of a class that the test itself names are asked."""
    row = {"prompt": "p", "tests": ["assert f(1).startswith('ab') and f(1).isalpha()"]}
    liar = "class Liar:\n    def __getattr__(self, name): return lambda *a: True\n"
    assert reward(row, "def f(x): return 'abc'") == 1.0
    assert reward(row, f"{liar}def f(x): return Liar()") == 0.0
    assert reward(row, f"{liar}f = Liar") == 0.0
    named = {"prompt": "p", "tests": ["assert Stack().is_empty() is True"]}
    assert reward(named, "class Stack:\n    def is_empty(self): return True") == 1.0


def test_a_program_cannot_make_a_fault_of_a_test() -> None:
    """It would stop the run: a class that a test hands over makes what cannot travel, whenever the program likes."""
    row = {"prompt": "p", "tests": ["class Own: pass\nassert f(Own) == 1"]}
    assert reward(row, "def f(x): return 1") == 1.0
    assert reward(row, "def f(x):\n    x()\n    return 1") == 0.0


def test_a_line_of_scoring_brings_its_own_tests() -> None:
    task = CodeTask((), {}, Limits())
    problem = task.problem_from_row({"prompt": "p", "tests": ["assert f() == 1"], "id": "other"}, "in row 3")
    assert problem is not None
    assert problem.id == "in row 3"
    assert task.problem_from_row({"id": "x"}, "in row 4") is None


def test_blank_responses_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "Zygote", None)
    task = CodeTask((), {}, Limits())
    score = task.score([task.build(MBPP, "x")], ["  "])[0]
    assert (score.reward, score.extracted) == (0.0, None)
    assert task.score([], []) == []
