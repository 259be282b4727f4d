"""Environments of verifiers as tasks: its rows, its rubric, its rewards, and no model but ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.registry import open_task

verifiers = pytest.importorskip("verifiers", reason="needs verifiers 0.3 (pip install 'verifiers>=0.3.1,<0.4')")
if not hasattr(verifiers, "SingleTurnEnv"):
    pytest.skip("verifiers 0.4 has no classic interface", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

MODULE = """
import verifiers as vf
from datasets import Dataset

def rows(first, num):
    return Dataset.from_list([{"question": f"Say {i}.", "answer": str(i)} for i in range(first, first + num)])

def load_environment(num=20, held_out=True, kind="single", broken=False):
    parser = vf.XMLParser(["answer"])

    def right(completion, answer, parser):
        if broken:
            raise KeyError("answer")
        return 1.0 if parser.parse_answer(completion) == answer else 0.0

    async def short(completion):
        return float(len(completion[-1]["content"]) < 40)

    def best(completions):
        return [0.0] * len(completions)

    if kind == "group":
        return vf.SingleTurnEnv(dataset=rows(0, num), rubric=vf.Rubric(funcs=[best]))
    rubric = vf.Rubric(funcs=[right, short], weights=[1.0, 0.25], parser=parser)
    if kind == "several":
        each = vf.SingleTurnEnv(dataset=rows(0, num), rubric=rubric)
        return vf.EnvGroup(envs=[each], env_names=["one"])
    return vf.SingleTurnEnv(dataset=rows(0, num), eval_dataset=rows(100, 5) if held_out else None, rubric=rubric,
                            parser=parser, system_prompt="Answer in tags.")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "said_env", raising=False)


def opened(**options: Any) -> Any:
    return open_task("verifiers:said-env", options=options)


def test_rows_are_problems_and_the_rubric_is_the_reward() -> None:
    task = opened(num=7)
    train, test = task.problems("train"), task.problems("test")
    assert [p.messages[-1]["content"] for p in train] == [f"Say {i}." for i in range(7)]
    assert [p.truth for p in test] == ["100", "101", "102", "103", "104"]
    assert train[0].messages[0] == {"role": "system", "content": "Answer in tags."}
    said = ["<answer>3</answer>", "<answer>4</answer>", "3", "<answer>3</answer>" + "." * 40]
    scores = task.score([train[3]] * 4, said)
    assert [score.reward for score in scores] == [1.25, 0.25, 0.25, 1.0]
    assert [score.parts["right"] for score in scores] == [1.0, 0.0, 0.0, 1.0]
    assert [score.parts["short"] for score in scores] == [1.0, 1.0, 1.0, 0.0]


def test_each_response_is_judged_on_its_own_problem() -> None:
    task = opened(num=64)
    problems = task.problems("train")
    scores = task.score(problems, [f"<answer>{p.truth}</answer>" for p in problems])
    assert [score.reward for score in scores] == [1.25] * 64
    assert len({score.parts["num_turns"] for score in scores}) == 1
    assert task.score([], []) == []


def test_without_rows_to_evaluate_on_some_are_held_out() -> None:
    task = opened(num=60, held_out=False)
    train, test = ({p.messages[-1]["content"] for p in task.problems(split)} for split in ("train", "test"))
    assert test and not train & test and len(train | test) == 60
    assert all(score.reward == 1.25 for score in task.score(
        task.problems("test"), [f"<answer>{p.truth}</answer>" for p in task.problems("test")]
    ))  # fmt: skip


def test_a_reward_function_that_fails_is_no_reward_of_0() -> None:
    """To the library it is, with a line in its log."""
    task = opened(broken=True)
    with pytest.raises(UserError, match="verifiers:said-env failed: Error calling reward function right: 'answer'"):
        task.score(task.problems("train")[:1], ["<answer>0</answer>"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("verifiers:there-is-none", {}, "verifiers:there-is-none: Could not import"),
        ("verifiers:said-env", {"nmu": 3}, "verifiers:said-env: .*nmu"),
        ("verifiers:said-env", {"kind": "group"}, "rewards attempts by comparing them"),
        ("verifiers:said-env", {"kind": "several"}, "is a EnvGroup; only environments of one conversation"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        open_task(name, options=options)
    assert "\n" not in str(error.value)
