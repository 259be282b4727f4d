"""The whole of it on a blank pocket model: two recipes, one seed, a report; and what a second call does."""

import json
import sys

import pytest

from upslope.cli import main
from upslope.errors import UserError
from upslope.lab.ladder.command import ladder_command
from upslope.lab.ladder.options import Ladder
from upslope.lab.ladder.report import machine, write_ladder_report

REWARD = "def odd(completions, **columns):\n    return [float(sum(map(ord, text)) % 2) for text in completions]\n"
SMALL = ("problems=4", "recipe.sample.group_size=2", "eval.problems=4", "sample.max_tokens=6")


@pytest.fixture
def task(tmp_path):
    """A task of one's own: eight problems to try, four held out, and a reward that differs between attempts."""
    for name, num in (("train", 8), ("test", 4)):
        rows = [{"prompt": f"Tom has {i} books and buys 3.", "answer": str(i + 3)} for i in range(num)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD)
    found = {"data": f"{tmp_path}/train.jsonl", "eval_data": f"{tmp_path}/test.jsonl"}
    return found | {"rewards": (f"{tmp_path}/mine.py:odd",)}


@pytest.fixture
def runner(monkeypatch):
    """``upslope train`` in this process."""
    asked = []

    def run(words, log):
        asked.append(list(words))
        monkeypatch.setattr(sys, "argv", ["upslope", "train", "--plain", *words])
        try:
            main()
        except SystemExit as end:
            log.write_text("")
            return int(end.code or 0)
        return 0

    run.asked = asked
    return run


def test_two_recipes_become_one_report_and_nothing_runs_twice(tmp_path, runner, task):
    said = []

    def ladder(**changes):
        settings = {
            "recipes": ("reinforce", "importance"),
            "seeds": 1,
            "tokens": 80,
            "reuse_tokens": 40,
            "noise_batches": 4,
        }
        settings |= {"noise_problems": 2, "model": "pocket:blank", "out": tmp_path / "out", "overrides": SMALL}
        return ladder_command(Ladder(task="user", **task, **settings | changes), runner=runner, say=said.append)

    report = ladder()
    text = report.read_text()
    assert report == tmp_path / "out" / "report.md"
    for name in ("tokens", "seconds", "entropy", "noise", "reuse"):
        assert f"({name}.png)" in text and (tmp_path / "out" / f"{name}.png").stat().st_size > 10_000
    assert text.count("\n### ") == 8 and "it needs runs of sft, rft" in text
    assert "--recipes reinforce,importance --seeds 1 --tokens 80" in text and machine() in text
    assert "\n| reinforce | " in text and "\n| importance | 16 | " in text
    assert len(runner.asked) == 1 + 2 + 3
    assert said[0].startswith("start-0: making") and said[2] == "[1/5] reinforce-0 ..."
    said.clear()
    assert ladder().read_text() == text
    assert len(runner.asked) == 6 and all("kept from before" in line for line in said[1:])
    ladder(recipes=("reinforce", "importance", "rft"), reuse_tokens=0)
    assert len(runner.asked) == 7
    with pytest.raises(UserError, match="made with other settings"):
        ladder(tokens=90)


def test_a_report_of_nothing_says_that_nothing_was_measured(tmp_path):
    from upslope.lab.ladder.facts import Facts

    text = write_ladder_report(Ladder(tmp_path), Facts({}, {}), [], "upslope ladder").read_text()
    assert text.count("Not measured here") == 8
