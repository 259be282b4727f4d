"""``task.where``: a condition on columns, read and never run."""

from __future__ import annotations

import json

import pytest

import upslope as up
from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.tasks.where import Where, condition
from upslope.types import Problem

ROW = {"pass_rate": 0.25, "level": "hard", "tags": ["sum", "money"], "done": False, "none": None}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("0 < pass_rate < 0.8", True),
        ("0.25 < pass_rate", False),
        ("pass_rate <= .25 and level == 'hard'", True),
        ("pass_rate > 0.5 or level != 'easy'", True),
        ("not (level == 'hard')", False),
        ("level in ['easy', 'hard']", True),
        ("'sum' in tags and 'time' not in tags", True),
        ("done == false", True),
        ("done", False),
        ("not done", True),
        ("none < 3", False),
        ("none == null", True),
        ("none != 3", True),
        ("missing > 0", False),
        ("-1 < pass_rate", True),
        ("-pass_rate < 0", True),
        ("-none < 1", False),
        ("-missing < 1", False),
        ("none == null", True),
        ("missing == null", True),
        ("null != level", True),
        ("level == null", False),
        ("none == missing", False),
        ("none != missing", True),
        ("none in [null, 1]", True),
        ("level in [null, 1]", False),
        ("none in [1]", False),
        ("none not in [1]", True),
        ("'sum' in none", False),
        ("'sum' not in none", True),
        ("none", False),
    ],
)
def test_conditions(where, holds):
    assert condition(where)[0](ROW) is holds


@pytest.mark.parametrize(
    "where",
    [
        *("", "pass_rate <", "__import__('os')", "pass_rate + 1 > 0", "row.level == 1", "tags[0] == 'sum'", "a is b"),
        *("null in 'abc'", "null < 3", "-level < 3", "-done < 3", "pass_rate", "level", "tags", "not " * 3000 + "done"),
        *("-" * 1900 + "1 < 2", "not " * 450 + "done" * 100, "(" * 900 + "1" + ")" * 900 + " < 2", "1 < 'a'"),
        *("lambda: 1", "[x for x in tags]", "f'{level}' == 'hard'", "pass_rate := 1", "b'x' == level", "*tags", "1;2"),
    ],
)
def test_what_is_no_condition_is_refused(where):
    with pytest.raises(UserError, match=r"task\.where = "):
        condition(where)[0](ROW)


@pytest.mark.parametrize("where", ["level != 3", "level == 3", "level in [2, 3]", "level not in [2, 3]", "3 != level"])
def test_text_is_not_compared_with_a_number_in_silence(where):
    """A CSV's cells are text: `level != 3` would keep every row."""
    holds, _ = condition(where)
    with pytest.raises(UserError, match="cannot be compared so; every cell of a CSV is text"):
        holds({"level": "3"})
    assert isinstance(holds({"level": 3}), bool) and isinstance(holds({"level": None}), bool)


def test_what_cannot_be_compared_is_said():
    with pytest.raises(UserError, match=r"'hard' and 3 cannot be compared so; every cell of a CSV is text"):
        condition("level < 3")[0](ROW)


def test_a_tasks_own_fingerprint_and_the_condition_make_the_fingerprint(folder):
    class Own(Task):
        name = "own"

        def problems(self, split):
            return [Problem(f"{split}/{i}", ({"role": "user", "content": "?"},), columns={"i": i}) for i in range(3)]

        def score(self, problems, responses):
            return []

        def fingerprint(self):
            return self.name

    own = Own()
    one, other = Where(own, "i > 0"), Where(own, "i > 1")
    assert len({own.fingerprint(), one.fingerprint(), other.fingerprint()}) == 3
    own.name = "changed"
    assert one.fingerprint() != Where(Own(), "i > 0").fingerprint()


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": f"{i}?", "answer": f"so\n#### {i}", "pass_rate": i / 4} for i in range(5)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path)


def test_only_training_problems_that_fulfil_it_are_left(folder):
    task = up.tasks.open("gsm8k", data=folder, where="0 < pass_rate < 0.8")
    assert [p.truth for p in task.problems("train")] == ["1", "2", "3"]
    assert [p.truth for p in task.demonstrations()] == ["1", "2", "3"]
    assert len(task.problems("test")) == 5
    whole = up.tasks.open("gsm8k", data=folder)
    assert [p.id for p in task.problems("train")] == [p.id for p in whole.problems("train")[1:4]]
    assert task.fingerprint() != whole.fingerprint()
    assert task.score(task.problems("test")[:1], ["#### 0"])[0].reward == 1


def test_the_rest_of_the_task_is_as_it_was(folder):
    task = up.tasks.open("gsm8k", data=folder, where="pass_rate > 0", options={"calculator": True})
    assert (task.name, task.reads_answers, task.max_tokens, task.documents()) == ("gsm8k", True, None, ())
    assert task.episode(task.problems("train")[0]).reply("<<1+1=") == "2>>"
    assert task.problem_from_row({"answer": "#### 4"}, "row 1").truth == "4"
    pocket = up.tasks.open("pocket", where="id != 'nobody'")
    assert pocket.documents() and pocket.demonstrations()


def test_faults_are_named(folder):
    with pytest.raises(UserError, match="no problem has a column 'pass_rat'; did you mean 'pass_rate'"):
        up.tasks.open("gsm8k", data=folder, where="pass_rat > 0").problems("train")
    with pytest.raises(UserError, match="none of the 5 training problems fulfils it"):
        up.tasks.open("gsm8k", data=folder, where="pass_rate > 2").problems("train")
