"""Every reward function's mean and spread, wherever a run is shown; and right by its own rule in a comparison."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tiny import random_groups

from upslope.errors import UserError
from upslope.inspect.compare.sides import open_side
from upslope.inspect.look.api import functions_of
from upslope.inspect.report import summary_lines, write_report
from upslope.inspect.terminal import TerminalView
from upslope.record.attempts import of_evaluation, write
from upslope.record.columns import numbers_in
from upslope.training.metrics import of_attempts
from upslope.types import Group, Score

VALUES = [(2.0, 0.5), (0.0, None), (1.0, 0.5), (1.0, 0.0)]


def groups(*, decided: bool = True) -> list[Group]:
    (group,) = random_groups(1, 4)
    scores = [
        Score(truth + (form or 0.0), parts={"truth": truth, "form": form}, right=truth >= 2, decided=decided)
        for truth, form in VALUES
    ]
    return [replace(group, rollouts=tuple(replace(r, score=s) for r, s in zip(group.rollouts, scores, strict=True)))]


def test_the_journal_has_mean_spread_and_how_often_none() -> None:
    row = of_attempts(groups(), imitates=False)
    assert row["rewards"]["truth"] == {"mean": 1.0, "std": pytest.approx(0.5**0.5), "none": 0.0}
    assert row["rewards"]["form"] == {"mean": pytest.approx(1 / 3), "std": pytest.approx(2**0.5 / 6), "none": 0.25}
    assert (row["reward"], row["accuracy"]) == (1.25, 0.25)
    assert row["reward_std"] == pytest.approx((sum((x - 1.25) ** 2 for x in (2.5, 0, 1.5, 1)) / 4) ** 0.5)


def test_where_nothing_decides_there_is_no_accuracy() -> None:
    assert "accuracy" not in of_attempts(groups(decided=False), imitates=False)


def shown(rows: list[dict], *, plain: bool) -> str:
    console = Console(file=io.StringIO(), width=110, height=40, force_terminal=not plain)
    view = TerminalView(console, plain=plain)
    view.start("run", "grpo", 2)
    for row in rows:
        (view.step if row["kind"] == "step" else view.evaluated)(row)
    if not plain:
        console.print(view._draw())
    view.close(True)
    return console.file.getvalue()  # type: ignore[attr-defined]


STEP = {"kind": "step", "step": 0} | of_attempts(groups(), imitates=False)
EVAL = {"kind": "eval", "step": 0, "num_problems": 4, "num_held_out": 13, "reward": 1.25, "rewards": STEP["rewards"]}


def test_the_live_view_says_them() -> None:
    said = shown([STEP, EVAL], plain=True)
    assert "rewards.truth=1 (0.7071)" in said and "rewards.form=0.3333 (0.2357, none 0.25)" in said
    assert "eval step=0 problems=4 of 13 reward=1.25 rewards.truth=1 (0.7071)" in said
    screen = shown([STEP, EVAL], plain=False)
    assert "truth 1 ± 0.71" in screen and "form 0.333 ± 0.24 (none 25%)" in screen and "held-out reward" in screen
    right = EVAL | {"greedy": {"value": 0.5, "low": 0.1, "high": 0.9, "num_problems": 4}}
    assert "4 of 13 problems" in shown([STEP, right], plain=False)


def test_the_report_says_them(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (EVAL, STEP)))
    lines = summary_lines(tmp_path)
    assert "reward      truth 1.000, spread 0.707" in lines
    assert "reward      form 0.333, spread 0.236, not applicable to 25.0 %" in lines
    assert lines[0].startswith("mean reward 1.250 (4 of 13 held-out problems; no accuracy")
    assert write_report(tmp_path).stat().st_size > 0


def test_the_page_gets_them() -> None:
    told = functions_of({".".join(way): value for way, value in numbers_in(STEP)})
    assert told["truth"]["mean"] == 1.0 and told["form"]["none"] == 0.25


def test_a_comparison_has_the_same_rule(tmp_path: Path) -> None:
    write(tmp_path / "eval-000001.parquet", of_evaluation(groups()))
    (answer,) = open_side(str(tmp_path / "eval-000001.parquet")).answers.values()
    assert answer.right and answer.reward == 2.5
    write(tmp_path / "eval-000002.parquet", of_evaluation(groups(decided=False)))
    with pytest.raises(UserError, match="nothing says which attempts are right, for there were several rewards"):
        open_side(str(tmp_path / "eval-000002.parquet"))
