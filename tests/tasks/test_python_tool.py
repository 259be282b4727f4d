"""The code tool, ``--tools python``: what it prints, how it fails, what is cut, and that a broken sandbox stops all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import Unavailable
from upslope.model.tools_shown import schema_of
from upslope.tasks.registry import open_task
from upslope.tasks.sandbox import confine
from upslope.tasks.sandbox.pool import LONGEST_OUTPUT, Limits
from upslope.tasks.tools import sandboxed, with_tools
from upslope.tasks.tools.calls import Call
from upslope.tasks.tools.toolbox import Answered, Toolbox, named

if sys.platform != "linux" or not confine.landlock_version():
    pytest.skip("needs Linux with Landlock", allow_module_level=True)


def ran(code: str, seconds: float = 0.0) -> Answered:
    return Toolbox(named([sandboxed.python]), seconds).answer(Call("python", {"code": code}))


def error_of(code: str) -> str:
    answer = ran(code)
    assert answer.failed
    return str(json.loads(answer.text)["error"])


def test_a_program_is_run_and_what_it_prints_is_read() -> None:
    whole = """
        from __future__ import annotations
        import dataclasses
        @dataclasses.dataclass
        class Point:
            x: int
        if __name__ == "__main__":
            print(Point(6 * 7))
    """.replace("\n        ", "\n")
    assert ran(whole) == Answered("Point(x=42)\n", failed=False)


def test_a_crash_is_told_with_its_line_behind_what_was_printed() -> None:
    code = "def half(x):\n    return x / 0\nprint('before')\nhalf(1)"
    assert error_of(code) == (
        "RuntimeError: the program failed; it printed: before\nline 2: ZeroDivisionError: division by zero\n"
    )
    assert "SyntaxError" in error_of("print(")
    assert error_of("import os\nos._exit(3)") == "RuntimeError: the program failed; it printed: "


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("open('/etc/passwd')", "PermissionError"),
        ("open('/tmp/x', 'w')", "PermissionError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "PermissionError"),
        ("import torch", "No module named 'torch'"),
        ("a = ' ' * 10**9", "MemoryError"),
        ("input()", "EOFError"),
    ],
)
def test_what_a_program_may_not_do_is_told(code: str, why: str) -> None:
    assert why in error_of(code)


def test_a_program_without_an_end_is_killed_and_what_it_printed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxed, "LIMITS", Limits(seconds=1))
    assert error_of("print('so far', flush=True)\nwhile True: pass") == (
        "TimeoutError: the program took longer than 1 s; it had printed: so far\n"
    )


def test_long_output_is_cut_in_the_middle_and_a_flood_is_a_fault() -> None:
    answer = ran("print('a' * 3000 + 'b' * 3000, end='')")
    assert answer == Answered("a" * 2000 + "\n[2000 characters are left out]\n" + "b" * 2000, failed=False)
    crash = error_of("print('a' * 9000)\nraise ValueError('why')")
    assert crash.endswith("aaa\nline 2: ValueError: why\n"), "the cause is at the end, and is kept"
    flood = error_of(f"while True: print('c' * {LONGEST_OUTPUT // 4})")
    assert flood.startswith(f"RuntimeError: the program printed more than {LONGEST_OUTPUT:,} bytes: ccc")


def test_a_conversation_of_any_task_may_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its calls is a process of its own, and failures are counted."""
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text('{"prompt": "What is 6 * 7?", "answer": "42"}\n')
    task = open_task("user", data="train.jsonl", tools=("python",))
    (problem,) = task.problems("train")
    assert schema_of(problem.template["tools"][0])["function"]["parameters"]["required"] == ["code"]
    world: Any = task.episode(problem)
    call = '<tool_call>{"name": "python", "arguments": {"code": "%s"}}</tool_call>'
    replies = world.reply(call % "x = 1" + call % "print(x)")
    assert replies[0]["content"] == "" and "NameError" in replies[1]["content"]
    assert (world.calls, world.wrong_calls) == (2, 1)


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_a_broken_sandbox_stops_the_run_and_is_no_answer(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    def broken(limits: Limits) -> None:
        raise Unavailable("no sandbox")

    monkeypatch.setattr(sandboxed, "Zygote", broken)
    with pytest.raises(Unavailable, match="no sandbox"):
        ran("print(1)", seconds)


def test_the_sandbox_is_tried_before_a_run_that_has_the_tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tried: list[Limits] = []
    monkeypatch.setattr(with_tools, "require_sandbox", tried.append)
    Path("train.jsonl").write_text('{"prompt": "Hello", "answer": "1"}\n')
    Path("own.py").write_text('def f(x: int) -> int:\n    """F.\n\n    Args:\n        x: X.\n    """\n    return x\n'
                              "def paid(completions, **kwargs):\n    return [0.0] * len(completions)\n")  # fmt: skip
    for tools, times in ((("own.py:f",), 0), (("own.py:f", "python"), 1)):
        open_task("user", data="train.jsonl", tools=tools, rewards=("own.py:paid",)).check_rewards()
        assert len(tried) == times
