"""Environments of verifiers that answer back or lend tools, as worlds: its loop, our tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import templated
from spoken import spoken

from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.tasks.registry import open_task
from upslope.types import Rollout

verifiers = pytest.importorskip("verifiers", reason="needs verifiers 0.3 (pip install 'verifiers>=0.3.1,<0.4')")
if not hasattr(verifiers, "MultiTurnEnv"):
    pytest.skip("verifiers 0.4 has no classic interface", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

MODULE = '''
import verifiers as vf
from datasets import Dataset

def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b

def rows(num):
    return Dataset.from_list([{"question": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(num)])

class Guess(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **more):
        if self.fails:
            raise vf.Error("out of order")
        return [{"role": "user", "content": "Try again."}]

    @vf.stop
    async def won(self, state):
        steps = state["trajectory"]
        return bool(steps) and state["answer"] in steps[-1]["completion"][-1].content

class Forgetful(Guess):
    async def get_prompt_messages(self, state):
        return (await super().get_prompt_messages(state))[-2:]

def load_environment(kind="guess", broken=False, fails=False):
    def right(completion, answer):
        if broken:
            raise KeyError("answer")
        return float(answer in completion[-1].content)

    def cut(state):
        return float(state["trajectory"][-1]["is_truncated"])

    rubric = vf.Rubric(funcs=[right, cut], weights=[1.0, 0.0])
    how = {"dataset": rows(4), "eval_dataset": rows(2), "rubric": rubric}
    if kind == "tools":
        return vf.ToolEnv(tools=[add], max_turns=3, **how)
    made = (Guess if kind == "guess" else Forgetful)(max_turns=3, **how)
    made.fails = fails
    return made
'''
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talking_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "talking_env", raising=False)


def attempt(*turns: str, family: str = "qwen2.5", most: int = 900, num: int = 1, **options: Any) -> list[Rollout]:
    """Attempts at "What is 1 + 2?" with these turns, character by character, each sampled token checked."""
    task = open_task("verifiers:talking-env", options=options)
    found, written = spoken(task, task.problems("train")[1], *turns, family=family, most=most, num=num)
    for rollout in found:
        for begin, ids in zip((0, *rollout.turns), written, strict=False):
            here = rollout.response[begin : begin + len(ids)]
            assert here == ids[: len(here)] and all(rollout.mask[begin : begin + len(ids)])
    return found


def test_an_environment_that_answers_back_is_the_world_and_its_rubric_the_reward() -> None:
    for found in attempt("5?", "It is 3.", num=3):
        assert (found.ended, found.num_turns, found.forks) == ("stop", 2, ())
        assert [m["content"] for m in found.chat] == ["5?", "Try again.", "It is 3."]
        assert found.earned is not None and found.earned.reward == 1.0
        assert found.earned.parts == {"right": 1.0, "cut": 0.0, "num_turns": 2.0}


def test_its_own_limit_of_turns_ends_an_attempt() -> None:
    (found,) = attempt("5?", "6?", "7?")
    assert (found.ended, found.num_turns) == ("stop", 3)
    assert found.earned is not None and found.earned.reward == 0.0


@pytest.mark.parametrize("family", ["qwen2.5", "gemma", "mistral"])
def test_tools_are_told_called_and_heard(family: str) -> None:
    (found,) = attempt(CALL, "It is 3.", family=family, kind="tools")
    subject = ChatRenderer.of(templated.tokenizer(family))
    assert '"add"' in subject.spelled(found.prompt) and "The first." in subject.spelled(found.prompt)
    assert [m["role"] for m in found.chat] == ["assistant", "tool", "assistant"]
    assert found.chat[1]["content"] == "3" and found.chat[1]["name"] == "add"
    assert (found.calls, found.wrong_calls, found.num_turns) == (1, 0, 2)
    assert found.earned is not None and found.earned.reward == 1.0 and found.earned.parts["add_calls"] == 1.0
    if family == "qwen2.5":
        assert "<tool_response>\n3\n</tool_response>" in subject.spelled(found.response)


def test_wrong_calls_are_answered_and_counted() -> None:
    broken, other = "<tool_call>{1}</tool_call>", CALL.replace("add", "sub")
    (found,) = attempt(broken, other, "It is 3.", kind="tools")
    assert (found.calls, found.wrong_calls, found.ended) == (2, 2, "stop")


def test_an_attempt_that_is_cut_is_judged_as_far_as_it_came() -> None:
    (found,) = attempt("5?", "It is 3 and so on." * 9, most=90)
    assert found.ended == "length" and found.earned is not None and found.earned.reward == 1.0
    assert found.earned.parts["cut"] == 1.0
    (found,) = attempt("5?" * 60, most=90)
    assert (found.ended, found.num_turns) == ("length", 1)
    assert found.earned is not None and found.earned.reward == 0.0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"broken": True}, "Error calling reward function right"),
        ({"fails": True}, "out of order"),
        ({"kind": "forgetful"}, r"changes what was said before \(message 1\); only environments that add"),
    ],
)
def test_what_fails_or_cannot_be_is_told_in_a_line(options: dict[str, Any], why: str) -> None:
    with pytest.raises(
        UserError, match=rf"problem verifiers/talking-env/train/1: verifiers:talking-env.* {why}"
    ) as error:
        attempt("5?", "It is 3.", **options)
    assert "\n" not in str(error.value)
