"""Problems by the length of their prompt, as the model reads it, on both sides, in runs and evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TOKENIZER

from upslope.algo.family import FAMILY
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab.evaluation import evaluated
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.renderer import prompt_of
from upslope.tasks.around import AroundTask
from upslope.tasks.registry import open_task
from upslope.training import prompt_lengths
from upslope.training.fitting import Reader, fit_rows
from upslope.training.named import open_run_task
from upslope.training.prompt_lengths import PromptLengths, with_prompt_lengths
from upslope.training.settings import EvalSettings, RunSettings
from upslope.training.start import launched
from upslope.training.task_settings import TaskSettings
from upslope.training.view import NullView

RENDERER = ChatRenderer.of(TOKENIZER)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test"):
        rows = [{"prompt": f"{name[1]} has apples." + " pens" * i, "completion": "3"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def one(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n"
    )
    return str(tmp_path)


def lengths(found: Any) -> list[int]:
    return [len(prompt_of(RENDERER, problem)) for problem in found]


def test_both_sides_and_demonstrations_are_filtered(data: str) -> None:
    whole = open_task("user", data=data)
    least, most = sorted(lengths(whole.problems("train")))[2:6:3]
    task = with_prompt_lengths(whole, TaskSettings(min_prompt_tokens=least, max_prompt_tokens=most), RENDERER)
    for found in (task.problems("train"), task.problems("test"), task.demonstrations()):
        assert len(found) == 4 and all(least <= num <= most for num in lengths(found))
    assert isinstance(task, PromptLengths) and task.fingerprint() != whole.fingerprint()
    assert task.told() == (
        f"by the length of their prompts (task.min_prompt_tokens = {least}, task.max_prompt_tokens = {most}) 4 of 8 "
        "training problems and 4 of 8 held-out problems are taken"
    )
    assert with_prompt_lengths(whole, TaskSettings(), RENDERER) is whole


def test_none_left_is_said(data: str) -> None:
    task = with_prompt_lengths(open_task("user", data=data), TaskSettings(max_prompt_tokens=1), RENDERER)
    with pytest.raises(UserError, match=r"task.max_prompt_tokens = 1: none of the 8 train problems has such a prompt"):
        task.problems("train")


def test_a_run_its_epochs_and_an_evaluation_see_them(data: str) -> None:
    whole = open_task("user", data=data)
    most = sorted(lengths(whole.problems("train")))[3]
    given = ["model=pocket:blank", f"task.data={data}", 'task.rewards=["mine.py:one"]', "problems=2", "epochs=1"]
    given += [
        "sample.max_tokens=4",
        "recipe.sample.group_size=2",
        f"task.max_prompt_tokens={most}",
        "sample.order=file",
    ]
    run = launched(load_settings(None, [*given, "name=a", "eval.problems=8"]), NullView)
    assert run.settings.steps == 2  # 4 problems
    tried = [row["prompt"] for step in range(2) for row in run.rollouts(step)]
    assert max(map(len, tried)) <= most
    assert [row["num_problems"] for row in run.rows("eval")] == [4, 4]
    resumed = launched(load_settings(None, [*given[:4], *given[5:], "name=a", "steps=3"]), NullView, resume=True)
    assert len(resumed.rows()) == 3
    settings, _, found = evaluated(load_settings(None, [*given, "device=cpu"]))
    assert found.row["num_held_out"] == 4 and open_run_task(settings.task, 0).problems("test")


def test_data_sets_that_are_mixed_are_filtered_each(data: str, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text(
        "".join(json.dumps({"prompt": "a" + " b" * i, "completion": "1"}) + "\n" for i in range(16))
    )
    for weights, shares in (((), (1 / 2, 1 / 2)), ((3.0, 1.0), (3 / 4, 1 / 4))):
        settings = TaskSettings(data=data, also=("other.jsonl",), weights=weights)
        whole = open_run_task(settings, 0)
        most = sorted(lengths(whole.shares()[0][1]))[3]
        task = with_prompt_lengths(whole, replace(settings, max_prompt_tokens=most), RENDERER)
        found = task.shares()
        assert all(num <= most for _, rows in found for num in lengths(rows))
        assert len(found[0][1]) == 4 and len(found[1][1]) < 16
        sizes = [len(rows) for _, rows in found]
        expected = shares if weights else [size / sum(sizes) for size in sizes]
        assert [share for share, _ in found] == pytest.approx(expected)


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_shares_by_size_are_of_the_rows_that_too_long_leaves(data: str, weights: tuple[float, ...]) -> None:
    rows = [{"prompt": "a" + " b" * i, "completion": "1"} for i in range(16)]
    Path("other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TaskSettings(data=data, also=("other.jsonl",), weights=weights, too_long="drop")
    whole = open_run_task(settings, 0)
    reads = Reader(RENDERER, sorted(lengths(whole.shares()[0][1]))[3] + 2)  # what is imitated, and the end
    run = RunSettings(task=settings, eval=EvalSettings(problems=0))
    sizes, shares = [], []
    for share, left in fit_rows(whole, FAMILY["sft"].recipe, run, reads).task.shares():
        sizes.append(len(left))
        shares.append(share)
    assert sizes[0] == 4 and 4 < sizes[1] < 16
    assert shares == pytest.approx([3 / 4, 1 / 4] if weights else [size / sum(sizes) for size in sizes])


def test_a_row_that_cannot_be_counted_is_named(data: str) -> None:
    task = open_task("user", data=data, template="raw")
    chat = replace(task.problems("train")[5], messages=({"role": "user", "content": "a"},) * 2)
    strange = type("Strange", (AroundTask,), {"problems": lambda self, split: [chat]})(task)
    with pytest.raises(UserError, match=r"user/train/5 \(.*train.jsonl row 6\).*; mend or drop the row"):
        with_prompt_lengths(strange, TaskSettings(max_prompt_tokens=9), RENDERER).problems("train")


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="at least min_prompt_tokens = 9 and at most max_prompt_tokens = 3"):
        TaskSettings(min_prompt_tokens=9, max_prompt_tokens=3)


def test_a_prompt_is_read_once_however_often_problems_are_asked_for(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the task within makes its problems of others: those with tools."""
    task = open_task("user", data=data, tools=["python"])
    task = with_prompt_lengths(task, TaskSettings(max_prompt_tokens=999), RENDERER)
    read: list[str] = []
    monkeypatch.setattr(prompt_lengths, "prompt_of", lambda renderer, p: read.append(p.id) or prompt_of(renderer, p))
    assert task.problems("train") is task.problems("train") and len(task.problems("train")) == 8
    assert task.demonstrations() is task.demonstrations()
    assert sorted(read) == sorted([p.id for p in task.problems("train")] + [p.id for p in task.demonstrations()])
