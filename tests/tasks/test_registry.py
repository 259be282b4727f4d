"""Names become tasks and reward functions; every option takes effect or is refused."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks import code_task, grade_school, mathematics, user
from upslope.tasks.builtin import TASKS
from upslope.tasks.grade_school import GSM8K
from upslope.tasks.registry import load_rewards, open_task


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"prompt": "q", "question": "q", "answer": "<<1=1>>1\n#### 1"}) + "\n")
    return str(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(
        "import neighbour_of_mine\n"
        "LIMIT = 3\n"
        "def half(completions, **kwargs):\n    return [neighbour_of_mine.HALF] * len(completions)\n"
        "def full(completions, **kwargs):\n    return [1] * len(completions)\n"
    )
    (tmp_path / "neighbour_of_mine.py").write_text("HALF = 0.5\n")
    return str(path)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour_of_mine", raising=False)


def test_gsm8k_with_its_option(rows: str) -> None:
    task = open_task("gsm8k", data=rows, options={"keep_annotations": True})
    assert isinstance(task, GSM8K)
    assert task.demonstrations()[0].demonstration == "<<1=1>>1\n#### 1"
    task = open_task("gsm8k", data=rows, options={"keep_annotations": False})
    assert task.demonstrations()[0].demonstration == "1\n#### 1"


def test_rewards_replace_that_of_gsm8k(rows: str, file: str) -> None:
    task = open_task("gsm8k", data=rows, rewards=[f"{file}:half"], reward_weights=[3.0])
    assert task.score(task.problems("train"), ["#### 1"])[0].reward == 1.5


def test_user_by_name_and_by_default(rows: str, file: str) -> None:
    for name in ("user", None):
        task = open_task(name, data=rows, rewards=[f"{file}:half", f"{file}:full"], reward_weights=[2, 1])
        assert task.name == "user"
        (score,) = task.score(task.problems("train"), ["r"])
        assert score.reward == 2 * 0.5 + 1
        assert score.parts == {"half": 0.5, "full": 1.0}


def test_eval_data_reaches_both_tasks(rows: str) -> None:
    data = f"{rows}/train.jsonl"
    extra = Path(rows) / "eval.jsonl"
    extra.write_text(json.dumps({"prompt": "e", "question": "e", "answer": "#### 2"}))
    for name in ("user", "gsm8k"):
        task = open_task(name, data=data, eval_data=str(extra))
        assert [p.columns["question"] for p in task.problems("test")] == ["e"]


def test_pocket_gets_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("upslope.tasks.pocket_problems")
    fake.open_pocket = lambda seed: ("pocket", seed)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "upslope.tasks.pocket_problems", fake)
    opened: Any = open_task("pocket", seed=7)
    assert opened == ("pocket", 7)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "gsm8"}, "no task 'gsm8'; did you mean 'gsm8k'"),
        ({"name": None}, "no task: name one of code, gsm8k, math, pocket, user"),
        ({"name": None, "data": "x.jsonl"}, "no task: name one of"),
        ({"name": "pocket", "data": "x.jsonl"}, "cannot use --data"),
        ({"name": "pocket", "rewards": [len]}, "cannot use --reward;"),
        ({"name": "pocket", "reward_weights": [1.0]}, "cannot use --reward-weights"),
        ({"name": "pocket", "eval_data": "x.jsonl"}, "--eval-data needs --data"),
        ({"name": "gsm8k", "eval_data": "x.jsonl"}, "--eval-data needs --data"),
        ({"name": "gsm8k", "options": {"keep_annotation": True}}, "did you mean 'keep_annotations'"),
        ({"name": "gsm8k", "options": {"keep_annotations": "no"}}, "must be true or false, not 'no'"),
        ({"name": "pocket", "options": {"keep_annotations": True}}, "no option 'keep_annotations'; it has none"),
        ({"name": "gsm8k", "reward_weights": [1.0]}, "1 reward weights for 0 reward functions"),
    ],
)
def test_what_would_be_ignored_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        open_task(**arguments)
    assert says in str(caught.value)


def test_reward_files(file: str) -> None:
    rewards = load_rewards([f"{file}:half", f"{file}:full"])
    assert list(rewards.functions) == ["half", "full"]
    assert rewards.weights == (1.0, 1.0)
    half, full = rewards.functions.values()
    assert half.__globals__ is full.__globals__  # type: ignore[attr-defined]  # imported once


def test_a_changed_file_is_read_again(file: str) -> None:
    Path(file).write_text("def f(completions):\n    return [1.0]\n")
    load_rewards([f"{file}:f"])
    Path(file).write_text("def f(completions):\n    return [22.0]\n")
    assert load_rewards([f"{file}:f"]).functions["f"](["r"]) == [22.0]


def test_bad_reward_files_are_named(file: str, tmp_path: Path) -> None:
    for spec, says in {
        "mine": "not of the form FILE.py:NAME",
        "mine.py": "not of the form FILE.py:NAME",
        "mine.py:": "not of the form FILE.py:NAME",
        f"{tmp_path}/nowhere.py:f": "there is no reward file",
        f"{file}:haf": "has no 'haf'; did you mean 'half'",
        f"{file}:LIMIT": "is a int, not a function",
    }.items():
        with pytest.raises(UserError) as caught:
            load_rewards([spec])
        assert says in str(caught.value)
    with pytest.raises(UserError, match="two reward functions are called 'half'"):
        load_rewards([f"{file}:half", f"{file}:half"])
    with pytest.raises(UserError, match="finite"):
        load_rewards([f"{file}:half"], [float("nan")])
    with pytest.raises(UserError, match="2 reward weights for 1"):
        load_rewards([f"{file}:half"], [1.0, 2.0])


def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(UserError, match=r"ZeroDivisionError: .* at .*broken\.py:2"):
        load_rewards([f"{tmp_path / 'broken.py'}:f"])
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*broken\.py, line 1"):
        load_rewards([f"{tmp_path / 'broken.py'}:f"])


@pytest.mark.parametrize(
    ("name", "makes"),
    [("code", code_task.open), ("gsm8k", grade_school.open), ("math", mathematics.open), ("user", user.open)],
)
def test_whatever_a_task_understands_can_be_given(name: str, makes: Any) -> None:
    kind = TASKS[name]
    assert {*kind.options, *kind.takes} == {*inspect.signature(makes).parameters}
