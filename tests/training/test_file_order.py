"""Problems in the order of their file: each step goes on where the last one ended, and nothing is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upslope.algo.sample import Attempts, Demonstrations
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.tasks.registry import open_task
from upslope.training.checks import check_run
from upslope.training.collect import Collector
from upslope.training.length import with_steps
from upslope.training.named import resolve_recipe
from upslope.training.source import FileOrder


def test_passes_follow_each_other() -> None:
    order = FileOrder(list(range(5)), "things")
    assert [order.take(step, 2) for step in range(5)] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
    assert order.others(1, [2, 3]) == [4, 0, 1]
    with pytest.raises(UserError, match="a step wants 6 things, and the task has 5; set problems to that or less"):
        order.take(0, 6)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    for name in ("train", "test"):
        rows = [{"prompt": f"{name} {i}", "completion": "yes"} for i in range(5)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text("def one(completions, **_):\n    return [1.0 for _ in completions]\n")
    return open_task(None, data=str(tmp_path), rewards=[f"{tmp_path}/mine.py:one"])


@pytest.mark.parametrize("sample", [Attempts(), Demonstrations()])
def test_a_run_takes_them_so_from_any_step_on(task: Task, sample: Attempts | Demonstrations) -> None:
    def steps(first: int, order: str) -> list[list[str]]:
        collector = Collector(task, None, None, None, 0, 2, order=order)  # type: ignore[arg-type]
        take = (
            collector._problems if isinstance(sample, Attempts) else lambda _, step: collector._demonstrations(step, 2)
        )
        return [[p.id.rpartition("/")[2] for p in take(sample, step)] for step in range(first, 4)]

    assert steps(0, "file") == [["0", "1"], ["2", "3"], ["4", "0"], ["1", "2"]]
    assert steps(2, "file") == steps(0, "file")[2:]  # a resumed run
    assert steps(0, "shuffled") != steps(0, "file")


@pytest.mark.parametrize(("order", "steps"), [("file", 5), ("shuffled", 4)])
def test_an_epoch_is_a_pass(task: Task, order: str, steps: int) -> None:
    settings = load_settings(None, ["epochs=2", "problems=2", f"sample.order={order}"])
    assert with_steps(settings, resolve_recipe(settings.recipe), task).steps == steps


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["recipe.sample.kind=learnable", "sample.order=file"], "draws problems by what is known of them"),
        (["task.also=['b.jsonl']", "sample.order=file", "recipe=sft"], "task.also mixes several data sets"),
        (["eval.patience=2"], "eval.every = 0 makes none; set eval.every as well"),
        (["eval.patience=2", "eval.every=1", "eval.problems=0"], "nothing is evaluated that could get better"),
        (["recipe=sft", "sample.stop=['a']", "eval.problems=0"], "ends attempts, and this run makes none"),
        (["sample.stop=['a']", "cluster.engine=vllm"], "sample.stop is not for cluster.engine = 'vllm'"),
    ],
)
def test_what_would_change_nothing_is_refused(task: Task, given: list[str], words: str) -> None:
    settings = load_settings(None, ["problems=2", *given])
    with pytest.raises(UserError, match=words):
        check_run(settings, resolve_recipe(settings.recipe), task)


@pytest.mark.parametrize("given", [["recipe.sample.kind=learnable"], ["eval.samples=2"], ["eval.by=prompt"]])
def test_what_has_to_know_what_is_right_is_refused_without(tmp_path: Path, task: Task, given: list[str]) -> None:
    (tmp_path / "more.py").write_text("def two(completions, **_):\n    return [1.0 for _ in completions]\n")
    names = [f"{tmp_path}/mine.py:one", f"{tmp_path}/more.py:two"]
    settings = load_settings(None, ["problems=2", *given])
    recipe = resolve_recipe(settings.recipe)
    with pytest.raises(UserError, match="has to know which attempts are right, and several rewards do not say it"):
        check_run(settings, recipe, open_task(None, data=str(tmp_path), rewards=names))
    check_run(settings, recipe, open_task(None, data=str(tmp_path), rewards=names, right=2.0))
