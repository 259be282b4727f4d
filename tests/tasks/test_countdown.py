"""The example of a task of one's own works, and is safe to copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from upslope.errors import UserError
from upslope.tasks.registry import open_task
from upslope.types import Problem

FILE = Path(__file__).resolve().parents[2] / "examples" / "countdown.py"
PUZZLE = Problem("p", ({"role": "user", "content": "?"},), truth="3", columns={"numbers": [4, 2, 2, 4]})


def test_problems_are_solvable_apart_and_the_seeds() -> None:
    task = open_task(f"{FILE}:Countdown", seed=1, options={"count": 3})
    train, test = task.problems("train"), task.problems("test")
    assert (len(train), len(test), task.name, task.max_tokens) == (2000, 200, "Countdown", 256)
    numbers = [{tuple(sorted(p.columns["numbers"])) for p in side} for side in (train, test)]
    assert not numbers[0] & numbers[1]
    assert all(1 <= int(p.truth) <= 100 and len(p.columns["numbers"]) == 3 for p in train)
    assert task.problems("train") == open_task(f"{FILE}:Countdown", seed=1, options={"count": 3}).problems("train")
    assert task.fingerprint() != open_task(f"{FILE}:Countdown", seed=2, options={"count": 3}).fingerprint()
    with pytest.raises(UserError, match="count = 9"):
        open_task(f"{FILE}:Countdown", options={"count": 9})


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("so <answer>(4 + 4 - 2) / 2</answer>", 1.0),
        ("<answer>4 / 2 + 4 / 2 - 1</answer> no: <answer>4 - 2 + 4 / 4</answer>", 0.0),  # the last one counts
        ("<answer>4 - 2 / 2</answer>", 0.0),  # 3, but not of every number
        ("<answer>4 * 2 - 4 - 2</answer>", 0.0),  # of every number, but 2
        ("(4 + 4 - 2) / 2", 0.0),
        ("<answer>(4 + 4 - 2) / (2 - 2)</answer>", 0.0),
        ("<answer>(4 + 4 - 2) // 2</answer>", 0.0),
        ("<answer>__import__('os').getcwd()</answer>", 0.0),
        ("<answer>9**9**9**9</answer>", 0.0),
        ("<answer>" + "(" * 99 + "</answer>", 0.0),
        ("<answer>" + "-" * 90 + "1</answer>", 0.0),
        ("<answer>\x00</answer>", 0.0),
        ("<answer></answer>", 0.0),
    ],
)
def test_the_reward_reads_an_expression_and_never_runs_it(response: str, reward: float) -> None:
    (score,) = open_task(f"{FILE}:Countdown").score([PUZZLE], [response])
    assert score.reward == reward
