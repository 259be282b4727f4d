"""The world of examples/gym: apart, worked out, careless by design, and paid by reasoning-gym's own scorers."""

from __future__ import annotations

import doctest
import json
import operator
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import loaded

from upslope.tasks.registry import open_task

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install upslope[gym]")

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "gym"
SUM = re.compile(r"(?<!\*)(?<!\* )(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)")
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
QUICK = {"NUM_TRAIN": 60, "NUM_DEMONSTRATIONS": 40, "NUM_TEST": 20, "NUM_DOCUMENTS": 30, "NUM_DRAWS": 600}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    sys.path.insert(0, str(FOLDER))  # as `python examples/gym/world.py` has it
    try:
        return loaded(FOLDER / "world.py")
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def world(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gym")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setattr(script, name, value)
        script.make(folder, seed=1)
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(script: ModuleType, split: list[dict[str, Any]]) -> set[str]:
    return {f"{row['task']} {script.WORKED[row['task']].content(row['metadata'])}" for row in split}


def test_a_gym_world_is_a_function_of_its_seed(
    script: ModuleType, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setattr(script, name, value)
    script.make(tmp_path / "again", seed=1)
    script.make(tmp_path / "other", seed=2)
    files = sorted(path.relative_to(world) for path in world.rglob("*.jsonl"))
    assert [str(file) for file in files] == [
        "test.jsonl",
        *(f"text/{t}.jsonl" for t in sorted(script.TASKS)),
        "train.jsonl",
    ]
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (world / file).read_bytes()
        assert (tmp_path / "other" / file).read_bytes() != (world / file).read_bytes()


def test_what_a_gym_world_holds_out_stands_nowhere_else(script: ModuleType, world: Path) -> None:
    train, test = rows(world / "train.jsonl"), rows(world / "test.jsonl")
    assert {row["task"] for row in test[:4]} == {row["task"] for row in train[:4]} == set(script.TASKS)
    assert len(contents(script, train)) == len(train) == 4 * 60
    assert len(contents(script, test)) == len(test) == 4 * 20
    assert not contents(script, train) & contents(script, test)
    text = "\n".join(row["text"] for task in script.TASKS for row in rows(world / "text" / f"{task}.jsonl"))
    assert all(row["prompt"] not in text for row in test)
    assert any(row["prompt"] in text for row in train)  # so the line above could have failed
    assert "####" not in text


def test_the_same_equation_with_another_unknown_is_on_the_same_side(script: ModuleType) -> None:
    content = script.WORKED["simple_equations"].content
    assert content({"equation": "5*a + 7 = 52"}) == content({"equation": "5*z + 7 = 52"})
    assert content({"equation": "5*a + 7 = 52"}) != content({"equation": "5*a + 7 = 57"})


def test_every_gym_problem_is_worked_out_to_its_answer(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "NUM_DRAWS", 400)
    num_sums = 0
    for task in script.TASKS:
        for _, entry in script.entries(task, seed=3):
            steps = script.WORKED[task].steps(entry["metadata"])
            assert steps[-1][1] == entry["answer"], (task, entry)
            for line, _ in steps:
                for a, sign, b, result in SUM.findall(line):
                    assert OPERATIONS[sign](int(a), int(b)) == int(result), line
                    num_sums += 1
    assert num_sums > 1000
    assert doctest.testmod(sys.modules["worked"]).failed == 0


def test_an_equation_of_another_form_is_not_worked_out(script: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"cannot read the equation '3\*x \+ 2\*x = 5'"):
        script.WORKED["simple_equations"].steps({"equation": "3*x + 2*x = 5", "variable": "x"})


def test_careless_annotators_stop_early(script: ModuleType, world: Path) -> None:
    shown = [row for row in rows(world / "train.jsonl") if "demonstration" in row]
    assert len(shown) == 4 * 40
    right = 0
    for row in shown:
        *lines, last = row["demonstration"].split("\n")
        whole = [line for line, _ in script.WORKED[row["task"]].steps(row["metadata"])]
        assert last.startswith("#### ") and lines == whole[: len(lines)]
        right += last == f"#### {row['answer']}"
    # 240 draws at 0.45, and problems of one step cannot be stopped early: 5 standard deviations are 0.16
    assert 0.4 < right / len(shown) < 0.75


def test_only_full_marks_of_reasoning_gym_are_paid(world: Path) -> None:
    task = open_task("user", data=str(world), rewards=(f"{FOLDER / 'scored.py'}:right",))
    problems = {problem.columns["task"]: problem for problem in task.problems("test")}
    for problem in problems.values():
        truth = problem.truth
        answers = {f"#### {truth}": 1.0, f"#### 7\n#### {truth}\nso": 1.0, truth: 0.0, f"#### {truth}\n#### ?": 0.0}
        answers |= {f"#### it is {truth}": 0.0, "####": 0.0, "": 0.0}
        scores = task.score([problem] * len(answers), list(answers))
        assert [score.reward for score in scores] == list(answers.values()), problem
    near = problems["spell_backward"].truth[:-1] + "?"  # all letters but one are right
    assert task.score([problems["spell_backward"]], [f"#### {near}"])[0].reward == 0.0
    assert doctest.testmod(loaded(FOLDER / "scored.py")).failed == 0


def test_careless_demonstrations_earn_what_they_deserve(world: Path) -> None:
    task = open_task("user", data=str(world), rewards=(f"{FOLDER / 'scored.py'}:right",))
    shown = task.demonstrations()
    scores = task.score(shown, [problem.demonstration or "" for problem in shown])
    assert [s.reward for s in scores] == [float(str(p.demonstration).endswith(f"#### {p.truth}")) for p in shown]
    assert {s.reward for s in scores} == {0.0, 1.0}
