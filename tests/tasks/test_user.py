"""Task user: rows become problems, reward functions are called as TRL calls them, and mistakes are named."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks import user
from upslope.tasks.problem_set import held_out
from upslope.tasks.registry import load_rewards
from upslope.tasks.reward_calls import RewardFunction
from upslope.tasks.user import UserTask, problem_of
from upslope.types import Problem, Score

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
DONE = {"role": "assistant", "content": "2"}


def write(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def table(tmp_path: Path, *rows: Mapping[str, Any]) -> UserTask:
    return user.open(write(tmp_path / "train.jsonl", *rows) and str(tmp_path))


def one(tmp_path: Path, **row: Any) -> Problem:
    return table(tmp_path, row).problems("train")[0]


def score(
    functions: Sequence[RewardFunction], problems: Sequence[Problem], *responses: str, weights: Sequence[float] = ()
) -> list[Score]:
    return UserTask((), load_rewards(functions, weights)).score(problems, responses)


PLAIN = [Problem(f"user/train/{i}", ({"role": "user", "content": f"p{i}"},), plain=True) for i in range(3)]


def test_a_plain_prompt(tmp_path: Path) -> None:
    problem = one(tmp_path, prompt="1+1?", answer=2, level="easy")
    assert problem.messages == ({"role": "user", "content": "1+1?"},)
    assert (problem.id, problem.truth, problem.plain) == ("user/train/0", "2", True)
    assert problem.columns == {"prompt": "1+1?", "answer": 2, "level": "easy"}
    assert problem.demonstration is None


def test_a_chat_prompt(tmp_path: Path) -> None:
    problem = one(tmp_path, prompt=CHAT, truth="2", answer="worked: 2")
    assert problem.messages == tuple(CHAT)
    assert (problem.truth, problem.plain) == ("2", False)


@pytest.mark.parametrize("field", ["prompt", "messages"])
def test_a_chat_may_be_written_as_json(tmp_path: Path, field: str) -> None:
    """As a cell of a CSV file has it; text that is JSON of something else is text."""
    problem = one(tmp_path, **{field: json.dumps(CHAT, indent=1)}, completion=json.dumps([DONE]))
    assert problem.messages == tuple(CHAT) and problem.demonstration == "2" and not problem.plain
    for text in ("[1, 2]", '[{"a": 1}]', "[{a}]"):
        assert one(tmp_path, prompt=text).messages == ({"role": "user", "content": text},)


def test_sharegpts_form_is_a_chat(tmp_path: Path) -> None:
    told = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
    problem = one(tmp_path, messages=told)
    assert problem.messages == tuple(CHAT) and problem.demonstration == "2"


def test_what_is_empty_in_a_message_says_nothing(tmp_path: Path) -> None:
    turn = {**DONE, "annotations": [], "audio": None, "refusal": ""}
    assert one(tmp_path, messages=[*CHAT, turn]).demonstration == "2"


def test_bytes_are_a_truth(tmp_path: Path) -> None:
    assert problem_of({"prompt": "a", "answer": b"42"}, "row 1").truth == "42"


def test_zero_is_a_truth(tmp_path: Path) -> None:
    assert one(tmp_path, prompt="1-1?", truth=0, answer=5).truth == "0"


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*CHAT, DONE]},
        {"prompt": CHAT, "demonstration": "2"},
        {"prompt": CHAT, "completion": "2"},
        {"prompt": CHAT, "completion": [DONE]},
        {"messages": CHAT, "demonstration": "2", "completion": None},
        {"messages": [CHAT[0], {**CHAT[1], "name": None}, DONE]},
    ],
)
def test_demonstrations(tmp_path: Path, row: dict[str, Any]) -> None:
    problem = one(tmp_path, **row)
    assert (problem.messages, problem.demonstration) == (tuple(CHAT), "2")


def test_only_training_demonstrations_are_imitated(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"prompt": "a", "completion": "x"}, {"prompt": "b"})
    write(tmp_path / "test.jsonl", {"prompt": "c", "completion": "y"})
    assert [p.demonstration for p in user.open(str(tmp_path)).demonstrations()] == ["x"]


def test_ids(tmp_path: Path) -> None:
    task = table(tmp_path, {"prompt": "a", "id": 7}, {"prompt": "b"}, {"prompt": "c", "id": "q"})
    assert [p.id for p in task.problems("train")] == ["7", "user/train/1", "q"]


def test_a_cell_that_a_row_lacks_is_none(tmp_path: Path) -> None:
    task = table(tmp_path, {"prompt": "a", "hint": "h"}, {"prompt": "b"})
    assert task.problems("train")[1].columns == {"prompt": "b", "hint": None}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "needs either 'prompt'"),
        ({"prompt": "a", "messages": CHAT}, "needs either 'prompt'"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": []}, "non-empty list"),
        ({"prompt": 5}, "non-empty list"),
        ({"prompt": 0}, "not 0"),
        ({"conversations": CHAT}, "as task.columns.messages=conversations"),
        ({"question": "a"}, "as task.columns.prompt=question"),
        ({"prompt": str(CHAT)}, "prompt is a chat as Python writes it"),
        ({"messages": [{"from": "humn", "value": "a"}]}, "message from 'humn'; did you mean 'human'"),
        ({"prompt": ["a"]}, "non-empty list"),
        ({"messages": [DONE]}, "prompt is empty"),
        ({"prompt": [DONE]}, "prompt is empty"),
        ({"prompt": [{"role": "usr", "content": "a"}]}, "did you mean 'user'"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "block of the kind 'image'"),
        ({"prompt": [{"role": "user", "content": "a", "audio": "b"}]}, "'audio' is not supported"),
        ({"prompt": [{"role": "user", "content": "a", "tool_calls": [1]}]}, "only an assistant calls tools"),
        ({"messages": [*CHAT, {"role": "assistant", "tool_calls": [1]}]}, "tool_calls must be a list of objects"),
        ({"messages": [*CHAT, {"role": "assistant", "tool_calls": [{"a": 1}]}]}, "needs a function with a name"),
        ({"messages": [*CHAT, {"role": "assistant", "content": None}]}, "must be text, not NoneType"),
        ({"messages": [*CHAT, {**DONE, "name": 3}]}, "'name' must be text, not int"),
        ({"messages": [*CHAT, {**DONE, "train": "no"}]}, "'train' must be true or false, not 'no'"),
        ({"messages": [*CHAT, {**DONE, "weight": 0.5}]}, "'weight' must be 0 or 1, not 0.5"),
        ({"messages": [*CHAT, {**DONE, "weight": True}]}, "'weight' must be 0 or 1, not True"),
        ({"messages": [*CHAT, {**DONE, "weight": 1, "train": True}]}, "both train and weight"),
        ({"messages": [{**CHAT[0], "train": True}, DONE]}, "is never imitated; drop its train"),
        ({"messages": [*CHAT, {**DONE, "weight": 0}]}, "every assistant message is left out"),
        ({"prompt": "a", "tools": "search"}, "tools must be a list of JSON schemas, not 'search'"),
        ({"prompt": "a", "chat_template_kwargs": [1]}, "chat_template_kwargs must be an object, not [1]"),
        ({"prompt": "a", "chat_template_kwargs": {"tokenize": True}}, "cannot set 'tokenize'"),
        ({"messages": [*CHAT, {**DONE, "reasoning_content": "\ud800"}]}, "has half a character"),
        ({"prompt": "a", "demonstration": "x", "completion": "x"}, "several demonstrations"),
        ({"messages": [*CHAT, DONE], "completion": "x"}, "several demonstrations"),
        ({"prompt": "a", "completion": CHAT}, "messages that end with an assistant's"),
        ({"prompt": "a", "completions": "x"}, "rename the column 'completions'"),
        ({"prompt": "b", "id": "first"}, "id 'first' is taken by"),
        ({"prompt": "b", "split": "test"}, "in the file of the train rows"),
        ({"prompt": "b", "split": "tset"}, "did you mean 'test'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        table(tmp_path, {"prompt": "a", "id": "first"}, row).problems("train")
    assert "train.jsonl row 2: " in str(caught.value)
    assert says in str(caught.value)


# Sides


def test_the_split_column_decides(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "split": "test" if i % 2 else "train"} for i in range(10)]
    task = user.open(write(tmp_path / "my.jsonl", *rows))
    assert [p.id for p in task.problems("test")] == [f"user/test/{i}" for i in (1, 3, 5, 7, 9)]
    assert len(task.problems("train")) == 5


@pytest.mark.parametrize("order", [1, -1])
def test_the_split_column_is_in_all_rows_or_in_none(tmp_path: Path, order: int) -> None:
    rows = [{"prompt": "a", "split": "test"}, {"prompt": "b"}][::order]
    with pytest.raises(UserError, match="row 2: 'split' must be in all rows or in none"):
        user.open(write(tmp_path / "my.jsonl", *rows)).problems("train")


def test_the_hash_holds_out_a_fixed_tenth() -> None:
    out = [i for i in range(2000) if held_out([{"role": "user", "content": f"problem {i}"}])]
    assert 140 <= len(out) <= 260  # 200 expected, standard deviation 13
    # A stored value: another hash would silently move the held-out rows of every user.
    assert out[:5] == [1, 2, 10, 17, 42]


def test_the_same_prompt_lands_on_one_side_whatever_its_form(tmp_path: Path) -> None:
    prompts = [f"problem {i}" for i in range(60)]
    rows = [{"prompt": p} for p in prompts] + [{"prompt": [{"role": "user", "content": p}], "n": 2} for p in prompts]
    task = user.open(write(tmp_path / "my.jsonl", *rows))
    train, test = ({p.messages[0]["content"] for p in task.problems(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train) + len(test) == 60


def test_an_empty_side_is_named(tmp_path: Path) -> None:
    assert not held_out([{"role": "user", "content": "problem 0"}])
    with pytest.raises(UserError, match=r"no test problems \(1 in all\): give --eval-data"):
        user.open(write(tmp_path / "my.jsonl", {"prompt": "problem 0"})).problems("test")


def test_files_are_checked_at_once(tmp_path: Path) -> None:
    mine, other = write(tmp_path / "my.jsonl", {"prompt": "a"}), write(tmp_path / "test.jsonl", {"prompt": "b"})
    assert len(user.open(mine, other).problems("test")) == 1
    with pytest.raises(UserError, match="already holds"):
        user.open(mine, mine)
    with pytest.raises(UserError, match="already holds"):
        user.open(str(tmp_path), mine)  # the folder has its own test.jsonl
    with pytest.raises(UserError, match="no data file"):
        user.open(mine, str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "my.xlsx").touch()
    with pytest.raises(UserError, match=r"must be \.jsonl"):
        user.open(str(tmp_path / "my.xlsx"))
    with pytest.raises(UserError, match="give --data"):
        user.open(None).problems("train")


def test_fingerprint(tmp_path: Path) -> None:
    prints = {table(tmp_path, row).fingerprint() for row in ({"prompt": "a"}, {"prompt": "a", "x": 1}, {"prompt": "b"})}
    assert len(prints) == 3
    assert table(tmp_path, {"prompt": "b"}).fingerprint() in prints
    before = table(tmp_path, {"prompt": "a", "id": 1}).fingerprint()
    (tmp_path / "train.jsonl").rename(tmp_path / "test.jsonl")
    assert user.open(str(tmp_path)).fingerprint() != before  # the same row with the same id, on the other side


# Rewards


def test_plain_prompts_are_called_with_strings() -> None:
    seen: dict[str, Any] = {}

    def spy(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **kwargs)
        return [0.5, 0.25]

    rows = [Problem(p.id, p.messages, plain=True, columns={"prompt": "x", "a": i}) for i, p in enumerate(PLAIN[:2])]
    assert [s.reward for s in score([spy], rows, "r0", "r1")] == [0.5, 0.25]
    # TRL hands on every column but prompt, completion and completion_ids, and three things of its trainer
    assert {seen.pop("trainer_state").global_step, callable(seen.pop("log_metric")), callable(seen.pop("log_extra"))}
    assert seen == {"prompts": ["p0", "p1"], "completions": ["r0", "r1"], "a": [0, 1]}


def test_chats_are_called_with_messages() -> None:
    def spy(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        assert prompts == [CHAT]
        assert completions == [[{"role": "assistant", "content": "r"}]]
        prompts[0][0]["content"] = "a function that scribbles on its arguments"
        return [1.0]

    problem = Problem("user/train/0", tuple(CHAT))
    assert score([functools.partial(spy)], [problem], "r")[0].reward == 1.0
    assert problem.messages[0]["content"] == "Be brief."


def test_a_function_may_name_only_what_it_needs() -> None:
    def length(completions: list[str], *, bonus: float = 1.0) -> list[float]:
        return [len(text) + bonus for text in completions]

    assert [s.reward for s in score([length], PLAIN[:1], "four")] == [5.0]


def test_what_cannot_be_given_by_name_is_given_by_place() -> None:
    def length(prompts: list[str], completions: list[str], /, scale: float = 2.0, **rest: Any) -> list[float]:
        assert not rest.keys() & {"prompts", "completions"}
        return [scale * len(text) for text in completions]

    assert [s.reward for s in score([length], PLAIN[:1], "four")] == [8.0]


def test_one_completion_is_not_what_there_is(tmp_path: Path) -> None:
    def mine(completion: str) -> float:
        return 1.0

    task = UserTask(user.open(write(tmp_path / "my.jsonl", {"prompt": "a"}))._files, load_rewards([mine], ()))
    with pytest.raises(UserError, match=r"'mine' needs 'completion'.*did you mean 'completions'"):
        task.check_columns()


@pytest.mark.parametrize(
    ("needs", "says"), [("answr", "no such column"), ("completion_ids", "what is scored here is text")]
)
def test_a_column_that_is_not_there_is_named(needs: str, says: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def f(completions, {needs}): return [1.0]", scope)
    with pytest.raises(UserError, match=f"'f' needs '{needs}': {says}.*known: prompts, completions"):
        score([scope["f"]], PLAIN[:1], "r")


def test_the_weighted_sum_leaves_out_what_does_not_apply() -> None:
    def one(completions: list[str]) -> list[float | None]:
        return [1.0, None, 0.0]

    def two(completions: list[str]) -> list[float | None]:
        return [3.0, 5.0, None]

    scores = score([one, two], PLAIN, "a", "b", "c", weights=(2.0, 0.5))
    # 2*1 + 0.5*3 = 3.5; 0.5*5 = 2.5; 2*0 = 0, which is a value and not "missing"
    assert [s.reward for s in scores] == [3.5, 2.5, 0.0]
    assert [dict(s.parts) for s in scores] == [
        {"one": 1.0, "two": 3.0},
        {"one": None, "two": 5.0},
        {"one": 0.0, "two": None},
    ]


def test_one_function_has_no_parts() -> None:
    assert score([lambda completions: [0.0]], PLAIN[:1], "a") == [Score(0.0)]


@pytest.mark.parametrize("value", [True, 1, 1.0, Decimal(1)])
def test_every_kind_of_number_is_a_reward(value: Any) -> None:
    (result,) = score([lambda completions: [value]], PLAIN[:1], "a")
    assert result.reward == 1.0
    assert type(result.reward) is float


def bad(result: Any) -> RewardFunction:
    def reward(completions: list[str]) -> Any:
        return result

    return reward


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ([1.0, 1.0], "2 values for 3 completions (user/train/0 to user/train/2)"),
        ([1.0] * 4, "4 values for 3 completions"),
        ([1.0], "1 values for 3 completions"),  # never broadcast
        (1.0, "returned a float"),
        (None, "returned a NoneType"),
        ("abc", "returned a str"),
        ({1.0: 1, 2.0: 2, 3.0: 3}, "returned a dict"),
        ((x for x in [1.0] * 2), "2 values for 3 completions"),
        ([1.0, math.nan, 1.0], "returned nan for user/train/1"),
        ([1.0, 1.0, -math.inf], "returned -inf for user/train/2"),
        ([10**400, 1.0, 1.0], "for user/train/0"),
        ([1.0, "1.0", 1.0], "returned '1.0' for user/train/1"),
        ([1.0, [1.0], 1.0], "returned [1.0] for user/train/1"),
        ([1.0, 1j, 1.0], "returned 1j for user/train/1"),
        ([1.0, None, 1.0], "user/train/1: every reward function (reward) returned None"),
    ],
)
def test_a_bad_result_is_named(result: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        score([bad(result)], PLAIN, "a", "b", "c")
    assert says in str(caught.value)
    assert "reward" in str(caught.value)


def test_no_reward_is_asked_for_even_before_the_first_response(tmp_path: Path) -> None:
    task = table(tmp_path, {"prompt": "a", "answer": "b"})
    with pytest.raises(UserError, match="give --reward"):
        task.score([], [])
