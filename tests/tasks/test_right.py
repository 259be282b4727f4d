"""What counts as right: one rule, decidable where a reward is more than right or wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.marks import comes_to
from upslope.tasks.base import Task
from upslope.tasks.complete import complete
from upslope.tasks.registry import open_task
from upslope.tasks.right import RightRule, require_right
from upslope.tasks.scoring import score_file
from upslope.types import Problem, Score

REWARDS = """
def correctness(completions, **_):
    return [2.0 if "yes" in c else None if "?" in c else 0.0 for c in completions]

def whole(completions, **_):
    return [0.5 for c in completions]

def form(completions, **_):
    return [0.5 for c in completions]

def tenths(completions, **_):
    return [0.7 + 0.2 + 0.1 for c in completions]
"""
GIST = ("correctness", "whole", "form")


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    data, code = tmp_path / "test.jsonl", tmp_path / "gist.py"
    data.write_text('{"prompt": "a"}\n')
    code.write_text(REWARDS)

    def make(*names: str, **how: Any) -> Task:
        return open_task(None, data=str(data), rewards=[f"{code}:{name}" for name in names], whole=True, **how)

    return make


def judged(task: Task, text: str) -> bool | None:
    (score,) = task.score(task.problems("test"), [text])
    return score.is_right if score.decided else None


@pytest.mark.parametrize(
    ("names", "how", "wrong", "right"),
    [
        (GIST, {}, None, None),  # 0.5 + 0.5 for a wrong answer is no full marks
        (GIST, {"right": 2.0}, False, True),
        (GIST, {"right": 3.5}, False, False),
        (("correctness=right", "whole", "form"), {}, False, True),
        (("correctness=right",), {}, False, True),
        (("correctness=right",), {"right": 2.5}, False, False),
        (("correctness=right", "whole", "form"), {"right": 2.5}, False, False),  # of the function that decides
        (("correctness=right", "whole=right"), {}, False, False),  # all that are marked
        (("correctness=right", "whole=right"), {"right": 0.5}, False, True),
        (GIST, {"reward_weights": [0.5, 0.25, 0.25]}, False, True),  # a share of 1 each: a sum of 1 is full marks
        (GIST, {"reward_weights": [0.5, 0.25, -0.25]}, None, None),
        (("correctness",), {}, False, True),
        (("correctness",), {"reward_weights": [0.25]}, False, True),  # its own value, whatever its weight
        (("correctness",), {"reward_weights": [-1.0]}, None, None),
        (("tenths",), {}, True, True),
    ],
)
def test_the_rule(
    opened: Any, names: tuple[str, ...], how: dict[str, Any], wrong: bool | None, right: bool | None
) -> None:
    task = opened(*names, **how)
    assert (judged(task, "no"), judged(task, "yes")) == (wrong, right)
    assert task.says_right is (wrong is not None)


def test_a_function_that_does_not_apply_makes_nothing_right(opened: Any) -> None:
    assert judged(opened("correctness=right", "whole"), "?") is False
    assert judged(opened("correctness=right", "form=right", right=0.5), "?") is True  # the other one applies


def test_a_lenient_reading_of_the_tasks_own_is_not_measured_by_the_users_rewards(tmp_path: Path) -> None:
    """Of GSM8K it is 0 or 1, whatever a right attempt earns."""
    row = {"question": "6 * 3?", "answer": "#### 18"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "f.py").write_text("def points(completions, **_):\n    return [2.5 for _ in completions]\n")
    task = open_task("gsm8k", data=str(tmp_path), rewards=[f"{tmp_path / 'f.py'}:points"], right=2.0)
    (score,) = task.score(task.problems("test"), ["it is 18"])
    assert (score.right, score.lenient) == (True, 1.0)
    own = RightRule(2.0)  # a task of one's own with points: its lenient reading is in points too
    assert (own(Score(2.5, lenient=2.0)).lenient, own(Score(2.5, lenient=1.0)).lenient) == (1.0, 0.0)


def test_the_rule_holds_for_rewards_of_other_processes(opened: Any) -> None:
    task = opened("correctness=right", "whole", reward_workers=1)
    assert (judged(task, "no"), judged(task, "yes")) == (False, True)


def test_what_has_to_know_is_refused_where_nothing_decides(opened: Any) -> None:
    require_right(opened("correctness=right", "whole"), "pass@k")
    with pytest.raises(UserError, match=r"pass@k has to know which attempts are right, .*=right.*task.right"):
        require_right(opened(*GIST), "pass@k")


def test_a_rule_that_cannot_be_is_refused(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'=wrong' behind a function's name means nothing; '=right' says that"):
        opened("correctness=wrong")
    opened("whole")
    with pytest.raises(UserError, match=r"task.right = 2: the task has no reward that could reach it"):
        open_task("user", data=str(tmp_path / "test.jsonl"), right=2.0)


def test_a_task_of_ones_own_says_it_itself() -> None:
    class Own:
        name = "own"

        def __init__(self, right: Any) -> None:
            self.right = right

        def problems(self, split: str) -> list[Problem]:
            return [Problem(f"{split}/0", ({"role": "user", "content": "a"},))]

        def score(self, problems: list[Problem], responses: list[str]) -> list[Score]:
            return [Score(0.3, right=self.right) for _ in responses]

    assert judged(complete(Own(True)), "a") is True
    assert judged(complete(Own(None)), "a") is False
    with pytest.raises(UserError, match="right=1; it must be True, False, or None"):
        judged(complete(Own(1)), "a")


def test_rounding_takes_nothing_away() -> None:
    assert 0.7 + 0.2 + 0.1 < 1 and comes_to(0.7 + 0.2 + 0.1, 1.0) and Score(0.7 + 0.2 + 0.1).is_right
    assert not Score(0.9999).is_right and not comes_to(-1.001, -1.0) and comes_to(1e9 - 1, 1e9)


def test_scoring_says_what_is_right(opened: Any) -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = "".join(json.dumps({"prompt": "a", "response": text}) + "\n" for text in ("no", "yes"))
    score_file(opened("correctness=right", "whole"), io.StringIO(lines), out, err)
    assert [json.loads(line)["right"] for line in out.getvalue().splitlines()] == [False, True]
    assert "2 responses, mean reward 1.5000, 1 right" in err.getvalue()
