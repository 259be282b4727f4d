"""Tasks by FILE.py:NAME: an object, a class or a function; what they lack has a default, what they get wrong a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.complete import Completed
from upslope.tasks.registry import open_task
from upslope.types import Score

FILE = """
from upslope.tasks.base import Task
from upslope.types import Problem, Score

class Sums:
    def __init__(self, size=3, *, seed=0, name="sums"):
        if size < 0:
            raise ValueError("a negative size")
        self.size, self.seed, self.name = size, seed, name

    def problems(self, split):
        first = self.seed if split == "train" else 100
        chats = [({"role": "user", "content": f"{i} + {i} ="},) for i in range(first, first + self.size)]
        return [Problem(f"sums/{chat[0]['content']}", chat, truth=str(i)) for i, chat in enumerate(chats)]

    def score(self, problems, responses):
        return [Score(p.truth == r) for p, r in zip(problems, responses, strict=True)]

ready = Sums(2)

def make(data, rewards, columns=None, **options):
    made = Sums(options.get("size", 1))
    made.told = (data, list(rewards.functions), columns, options)
    made.documents = lambda: [data]
    return made

def broken(seed):
    return [][seed]

def nothing():
    pass

def needs(level):
    return Sums()

class Half:
    def problems(self, split):
        return []

class Abstract(Task):
    name = "abstract"
    def score(self, problems, responses):
        return []

def reward(completions, **columns):
    return [1.0] * len(completions)

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "my_task.py").write_text(FILE)
    return str(tmp_path / "my_task.py")


def test_a_class_gets_options_and_seed(file: str) -> None:
    task = open_task(f"{file}:Sums", seed=5, options={"size": 2})
    assert [p.id for p in task.problems("train")] == ["sums/5 + 5 =", "sums/6 + 6 ="]
    assert task.name == "sums"
    scores = task.score(task.problems("train"), ["0", "7"])
    assert scores == [Score(1.0), Score(0.0)]
    assert type(scores[0].reward) is float  # whatever number it was


def test_an_object_is_itself(file: str) -> None:
    assert len(open_task(f"{file}:ready").problems("test")) == 2
    with pytest.raises(UserError, match="has no option 'size'; it has none"):
        open_task(f"{file}:ready", options={"size": 1})


def test_a_function_gets_what_it_has_a_parameter_for(file: str) -> None:
    task = open_task(f"{file}:make", data="x.txt", rewards=[f"{file}:reward"], options={"size": 4})
    assert isinstance(task, Completed)
    assert task._own.told == ("x.txt", ["reward"], {}, {"size": 4})
    assert task.documents() == ["x.txt"]
    with pytest.raises(UserError, match="cannot use --data; drop it"):
        open_task(f"{file}:Sums", data="x.txt")
    with pytest.raises(UserError, match="cannot use --eval-data"):
        open_task(f"{file}:make", data="x.txt", eval_data="y.txt")
    with pytest.raises(UserError, match="cannot use --reward;"):
        open_task(f"{file}:Sums", rewards=[f"{file}:reward"])


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("Sumz", {}, "has no 'Sumz'; did you mean 'Sums'"),
        ("NUMBER", {}, "is a int, and has no problems(split), which returns a list of Problem for 'train' and for"),
        ("Half", {}, "Half has no score(problems, responses), which returns a list with one Score for each"),
        ("Abstract", {}, "Abstract has no problems(split), which returns"),
        ("nothing", {}, "returned nothing; return an object with problems(split), which"),
        ("needs", {}, "needs its option 'level': give task.options.level=VALUE"),
        ("Sums", {"sise": 1}, "has no option 'sise'; did you mean 'size'"),
        ("Sums", {"seed": 1}, "has no option 'seed'; give seed itself"),
        ("Sums", {"size": -1}, "cannot be made: ValueError: a negative size at"),
        ("broken", {}, "cannot be made: IndexError: list index out of range at"),
        ("Sums", {"name": "a/b"}, "its name 'a/b' must be a word or two"),
    ],
)
def test_what_is_no_task_is_named(file: str, name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        open_task(f"{file}:{name}", options=options)
    assert says in str(caught.value)
    assert f"{file}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no task file"):
        open_task(f"{tmp_path}/gone.py:Task")
    with pytest.raises(UserError, match=r"no task 'sum'; known: .*, or FILE\.py:NAME for your own"):
        open_task("sum")


def test_the_task_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    code = page[page.index("# my_task.py") :].partition("```")[0]
    (tmp_path / "my_task.py").write_text(code)
    task = open_task(f"{tmp_path / 'my_task.py'}:Sums", options={"largest": 99})
    problem = task.problems("train")[0]
    assert [s.reward for s in task.score([problem] * 2, [f" {problem.truth}", "?"])] == [1.0, 0.0]
    assert len(task.problems("test")) == 500
