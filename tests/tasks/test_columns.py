"""A file that calls its columns otherwise: the user says which is which, and a slip is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.tasks import grade_school, user
from upslope.tasks.registry import load_rewards, open_task
from upslope.training.named import open_run_task

ROW = {"question": "1 + 1 =", "solution": "1 + 1 = 2", "final": "2", "level": "easy"}


def write(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def renamed(tmp_path: Path, *rows: Mapping[str, Any], **columns: str) -> user.UserTask:
    write(tmp_path / "train.jsonl", *rows)
    return user.open(str(tmp_path), columns=columns)


def test_fields_are_filled_from_the_files_own_columns(tmp_path: Path) -> None:
    task = renamed(tmp_path, ROW, prompt="question", demonstration="solution", truth="final")
    (problem,) = task.problems("train")
    assert problem.messages == ({"role": "user", "content": "1 + 1 ="},)
    assert (problem.truth, problem.demonstration) == ("2", "1 + 1 = 2")
    # A reward sees the new names.
    assert problem.columns == {"prompt": "1 + 1 =", "demonstration": "1 + 1 = 2", "truth": "2", "level": "easy"}


def test_the_chosen_column_wins_over_one_that_the_file_calls_so(tmp_path: Path) -> None:
    row = {"prompt": "short", "question": "long", "messages": [{"role": "user", "content": "chat"}], "answer": "2"}
    (problem,) = renamed(tmp_path, row, prompt="question").problems("train")
    assert problem.messages[0]["content"] == "long"
    assert problem.columns == {"prompt": "long", "answer": "2"}
    swapped = {"prompt": "a", "truth": "b", "answer": "c"}
    (problem,) = renamed(tmp_path, swapped, truth="answer", answer="truth").problems("train")
    assert (problem.columns["truth"], problem.columns["answer"]) == ("c", "b")
    (problem,) = renamed(tmp_path, swapped, truth="answer", answer="answer").problems("train")
    assert (problem.columns["truth"], problem.columns["answer"]) == ("c", "c")


def test_id_and_split(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "key": f"k{i}", "side": side} for i, side in enumerate(["test", "train"])]
    task = user.open(write(tmp_path / "my.jsonl", *rows), columns={"id": "key", "split": "side"})
    assert [p.id for p in (*task.problems("train"), *task.problems("test"))] == ["k1", "k0"]


def test_gsm8k_in_other_words(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"problem": "How many?", "worked": "#### 18"})
    task = grade_school.open(str(tmp_path), columns={"question": "problem", "answer": "worked"})
    assert [p.truth for p in task.problems("train")] == ["18"]
    assert path in str(tmp_path / "train.jsonl")


def test_a_row_may_lack_a_cell_but_a_file_not_the_column(tmp_path: Path) -> None:
    task = renamed(tmp_path, ROW, {"question": "2 + 2 ="}, prompt="question", truth="final")
    assert [p.truth for p in task.problems("train")] == ["2", ""]
    write(tmp_path / "test.jsonl", {"question": "q", "result": "4"})
    with pytest.raises(UserError) as caught:
        user.open(str(tmp_path), columns={"prompt": "question", "truth": "final"}).problems("train")
    said = str(caught.value)
    assert said == f"task.columns.truth: {tmp_path / 'test.jsonl'} has no column 'final'; it has question, result"


def test_an_unknown_field_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.columns\.promt: task user reads no field 'promt'; did you mean 'prom"):
        renamed(tmp_path, ROW, promt="question")
    with pytest.raises(UserError, match="task gsm8k reads no field 'prompt'; known: answer, question, split"):
        grade_school.open(columns={"prompt": "question"})
    with pytest.raises(UserError, match=r"task pocket cannot use task\.columns"):
        open_task("pocket", columns={"prompt": "question"})


def test_lines_to_score_have_the_same_columns(tmp_path: Path) -> None:
    task = user.UserTask((), load_rewards([lambda completions: [1.0]]), {"prompt": "question"})
    problem = task.problem_from_row(ROW, "row 1")
    assert problem is not None and problem.messages[0]["content"] == "1 + 1 ="
    assert task.problem_from_row({"prompt": "1 + 1 ="}, "row 1") is None


def test_from_a_run_file_and_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "my.jsonl", ROW, *({**ROW, "question": str(i)} for i in range(50)))
    run = tmp_path / "run.toml"
    run.write_text('[task]\ndata = "my.jsonl"\n[task.columns]\nprompt = "question"\ntruth = "level"\n')
    settings = load_settings(run, ["task.columns.truth=final"])
    assert settings.task.columns == {"prompt": "question", "truth": "final"}
    assert {p.truth for p in open_run_task(settings.task, 0).problems("train")} == {"2"}
    with pytest.raises(UserError, match=r"task\.columns = .* should be dict\[str, str\]"):
        load_settings(run, ["task.columns.truth=3"])
