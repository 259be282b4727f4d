"""Which part of a response is the program, and what completes the beginning of a function."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from exercises import HUMAN

from upslope.tasks.code_program import program_in
from upslope.tasks.code_task import CodeTask
from upslope.tasks.sandbox import confine
from upslope.tasks.sandbox.pool import Limits

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


def completes(response: str, **row: Any) -> float:
    task = CodeTask((), {}, Limits(seconds=1))
    return task.score([task.build({**HUMAN, **row, "id": "x"}, "x")], [response])[0].reward


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("x = 1", "x = 1"),
        ("Say:\n```python\nx = 1\n```\nor\n```py\nx = 2\n```\nDone", "x = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python3 title\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("```python\nx = 1\ny =", "x = 1\ny ="),
        ("```python\r\nx = 1\r\n```\r\nDone", "x = 1\n"),
        ("1. Do:\n   ```python\n   if x:\n     y\n   ```", "if x:\n  y\n"),
        ("      ```python\n      x = 1\n      ```\n", "x = 1\n"),
        ("  ```python\nx = 1\n  y = 2\n  ```\n", "x = 1\n  y = 2\n"),
        ("```python3.11\nx = 1\n```", "x = 1\n"),
        ("```python:main.py\nx = 1\n```", "x = 1\n"),
        ("```py3\nx = 1\n```", "x = 1\n"),
        ("```pyx\nx = 1\n```\n```{.python}\nx = 2\n```\n```pyx\n```", "x = 2\n"),
        ('````python\nx = """\n```\n"""\n````', 'x = """\n```\n"""\n'),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("\ufeffx = 1", "x = 1"),
        ("```python\nx = 1\n```\nIt prints\n```\n1\n```", "x = 1\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\n\n```", None),
        ("  \n", None),
        ("", None),
    ],
)
def test_which_part_is_the_program(response: str, program: str | None) -> None:
    assert program_in(response) == program


@pytest.mark.parametrize(
    "response",
    [
        "    return half(half(x))\n",
        "return half(half(x))",
        "y = half(x)\nreturn half(y)",
        "def quarter(x):\n    return half(half(x))",
        "```python\ndef quarter(x):\n    return half(half(x))\n```",
        "```python\ndef helper(x): return x / math.sqrt(16)\n\ndef quarter(x): return helper(x)\n```",
        "    return deep(x)\n\ndef deep(x):\n    return x / 4",
    ],
)
def test_a_function_is_completed_or_whole(response: str) -> None:
    assert completes(response) == 1.0
    assert completes(response.replace("half(", "abs(").replace("/", "*")) == 0.0


def test_a_beginning_without_an_end_of_line_and_a_first_line_without_indent() -> None:
    beginning = HUMAN["prompt"].rstrip()
    for program in ("    return x / 4", "y = x / 2\n    return y / 2", "if x:\n        return x / 4\n    return 0"):
        assert completes(program, prompt=beginning) == 1.0
    assert completes("if x:\n    return x / 4\nreturn 0") == 1.0
