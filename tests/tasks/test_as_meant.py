"""Rows whose prompts say how they are meant: beginnings, blocks, arguments of the template; and what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.tasks.registry import open_task
from upslope.tasks.user import problem_of


def asked(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"What is {number} + 2?"}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def table(folder: Path, *rows: Any, **given: Any) -> Task:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_task("user", data=str(folder), **given)


@pytest.mark.parametrize(
    ("last", "begins"),
    [
        (said("Let me see.\n<think>"), True),
        (said("Let me see.\n<think>\n"), True),
        (said("<think>I see</think> 4"), False),
        (said("Let me see.", prefix=True), True),
        (said("Let me see.\n<think>", prefix=False), False),
        (said("4"), False),
    ],
)
def test_a_final_turn_is_a_beginning_or_an_answer(last: dict[str, Any], begins: bool) -> None:
    problem = problem_of({"messages": [asked(1), last]}, "row 1")
    text = {"role": "assistant", "content": last["content"]}
    assert problem.messages == ((asked(1), text) if begins else (asked(1),))
    assert problem.demonstration == (None if begins else last["content"])
    assert all("prefix" not in message for message in (*problem.messages, *problem.conversation))


def test_a_prompt_that_ends_with_the_assistant_is_a_beginning() -> None:
    row = {"prompt": [asked(1), said("The sum is")], "completion": " 3."}
    problem = problem_of(row, "row 1")
    assert problem.messages[-1] == said("The sum is")
    assert (problem.demonstration, problem.conversation) == (" 3.", ())


def test_the_same_final_text_in_all_rows_is_a_beginning(tmp_path: Path) -> None:
    rows = [{"messages": [asked(i), said("Let me solve this.")], "answer": i + 2} for i in range(3)]
    assert all(p.messages[-1]["role"] == "assistant" for p in table(tmp_path, *rows).problems("train"))
    shown = [{"messages": row["messages"]} for row in rows]  # nothing to judge by: to be imitated
    assert all(p.messages[-1]["role"] == "user" for p in table(tmp_path, *shown).problems("train"))
    mixed = [*rows, {"messages": [asked(9), said("11")], "answer": 11}]
    assert all(p.messages[-1]["role"] == "user" for p in table(tmp_path, *mixed).problems("train"))
    same = [{"messages": [asked(1), said("3")], "answer": 3}] * 2  # one question, and its answer, twice
    assert all(p.messages[-1]["role"] == "user" for p in table(tmp_path, *same).problems("train"))


def test_blocks_of_text_are_put_together_and_rewards_see_them_as_they_are() -> None:
    blocks = [{"type": "text", "text": "What is "}, {"type": "text", "text": "1 + 2?"}]
    row = {"prompt": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": blocks}]}
    problem = problem_of(row, "row 1")
    assert [m["content"] for m in problem.messages] == ["Be brief.", "What is 1 + 2?"]
    assert problem.columns["prompt"] == row["prompt"]
    with pytest.raises(UserError, match="row 1: message content has a block of the kind 'image'"):
        problem_of({"prompt": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, "row 1")


def test_settings_say_how_prompts_are_put_and_a_rows_own_word_comes_first(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "chat_template_kwargs": {"enable_thinking": True}, "completion": "c"}]
    plain = table(tmp_path, *rows)
    task = table(tmp_path, *rows, template="raw", chat_template_kwargs={"enable_thinking": False}, keep_special=True)
    one, two = task.problems("train")
    assert (one.form, dict(one.template)) == ("raw", {"enable_thinking": False})
    assert dict(two.template) == {"enable_thinking": True} == dict(task.demonstrations()[0].template)
    assert (task.keep_special, plain.keep_special) == (True, False)
    assert task.fingerprint() != plain.fingerprint()
    with pytest.raises(UserError, match=r"task.chat_template_kwargs cannot set 'tokenize'"):
        table(tmp_path, *rows, chat_template_kwargs={"tokenize": True})


PRINTS = """
import os, subprocess, sys
from upslope.inspect.data_stream import data_stream, prints_aside
print("before")
with prints_aside():
    print("user")
    subprocess.run(["echo", "child"])
    os.write(1, b"library\\n")
    print("data", file=data_stream())
print("after")
"""


def test_only_data_goes_to_standard_output() -> None:
    told = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True)
    assert told.stdout == "before\ndata\nafter\n"
    assert sorted(told.stderr.split()) == ["child", "library", "user"]


def test_what_a_reward_prints_is_not_among_the_rows_of_score(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(
        "print('loaded')\ndef r(completions, **kwargs):\n    print('called')\n    return [1.0] * len(completions)\n"
    )
    (tmp_path / "lines.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    command = [sys.executable, "-m", "upslope.cli", "score", "lines.jsonl", "--reward", "reward.py:r"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [json.loads(line)["reward"] for line in told.stdout.splitlines()] == [1.0]
    assert {"loaded", "called"} <= {*told.stderr.split()}
