"""``upslope eval`` as a user gives it a file: all of it, with the rule of right that was given, or n of N."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import upslope_says

REWARDS = """
def truth(completions, **_):
    return [0.0 for c in completions]

def form(completions, **_):
    return [0.5 for c in completions]

def whole(completions, **_):
    return [0.5 for c in completions]
"""
ALL = ("--reward", "gist.py:truth", "--reward", "gist.py:form", "--reward", "gist.py:whole")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    Path("gist.py").write_text(REWARDS)
    rows = [{"prompt": f"Tom has {i} apples.", "completion": "3"} for i in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*words: str, rc: int = 0) -> tuple[str, str]:
        given = ["eval", "pocket:blank", "--data", "rows.jsonl", "--max-tokens", "2", *words]
        code, out, err = upslope_says(monkeypatch, capsys, *given)
        assert code == rc
        return out, err

    return run


def test_a_file_is_evaluated_whole(said: Any) -> None:
    row = json.loads(said("--reward", "gist.py:form", "task.right=0.5", "--json")[0])
    assert (row["greedy"]["value"], row["greedy"]["num_problems"], row["num_held_out"]) == (1.0, 20, 20)


def test_fewer_of_them_are_said_to_be_so_and_a_wrong_answer_is_wrong(said: Any) -> None:
    out, _ = said("--reward", "gist.py:truth=right", *ALL[2:], "--problems", "7")
    assert "greedy accuracy  0.0%" in out and "7 of 20" in out
    assert "mean reward 1.000" in out and "reward      truth 0.000, spread 0.000" in out


def test_without_a_rule_there_is_no_accuracy(said: Any) -> None:
    out, _ = said(*ALL)
    assert "20 problems; several reward functions, and nothing says what is right, so there is no accuracy" in out
    assert "accuracy  " not in out and "mean reward 1.000" in out
    _, err = said(*ALL, "--samples", "2", rc=2)
    assert "pass@k (eval.samples = 2) has to know which attempts are right" in err


@pytest.mark.parametrize(
    "key",
    [
        "eval.patience=2",
        "sample.order=file",
        "eval.every=3",
        'task.also=["b.jsonl"]',
        "task.weights=[1]",
    ],
)
def test_what_only_a_run_can_follow_is_refused(said: Any, key: str) -> None:
    _, err = said("--reward", "gist.py:form", key, rc=2)
    assert f"upslope eval learns nothing, so {key.partition('=')[0]} is of no use to it" in err


def test_a_choice_of_training_problems_is_refused(said: Any) -> None:
    _, err = said("--reward", "gist.py:form", "task.where=id != null", rc=2)
    assert "task.where chooses training problems, and upslope eval looks at held-out ones; leave it out" in err


def test_rows_that_are_too_long_are_left_out_if_that_is_wanted(said: Any) -> None:
    with Path("rows.jsonl").open("a") as file:
        file.writelines(json.dumps({"prompt": f"Tom has {i} apples. " * 2000}) + "\n" for i in range(2))
    given = ("--reward", "gist.py:form", "task.right=0.5", "--json")
    _, refused = said(*given, rc=2)
    assert "of 22 held-out problems 2 are too long" in refused and 'task.too_long = "drop"' in refused
    out, err = said(*given, "task.too_long=drop")
    assert json.loads(out)["num_held_out"] == 20 and "2 of 22 held-out problems left out" in err
