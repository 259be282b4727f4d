"""Tasks by FILE.py:NAME: an object, a class or a function; what they lack has a default, what they get wrong a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.base import Split, Task
from upslope.tasks.complete import Completed, complete
from upslope.tasks.registry import open_task
from upslope.types import Problem, Score

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


# An object with two methods


def problem(name: str = "a", **fields: Any) -> Problem:
    return Problem(**{"id": name, "messages": ({"role": "user", "content": "?"},), "truth": "t"} | fields)


class Two:
    """No more than what is needed."""

    def problems(self, split: Split) -> list[Problem]:
        return [problem(split)]

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [Score(1.0, r or None) for r in responses]


def test_the_rest_has_defaults() -> None:
    task = complete(Two())
    assert (task.name, task.max_tokens, task.reads_answers) == ("Two", None, True)
    assert (list(task.demonstrations()), list(task.documents())) == ([], [])
    task.check_rewards()
    assert task.problem_from_row({"answer": "1"}, "row 1") is None
    assert task.score(task.problems("train"), ["r"]) == [Score(1.0, "r")]
    assert complete(task) is task


def test_what_an_object_has_of_it_counts() -> None:
    class More(Two):
        name = "more of it"
        max_tokens = 7
        reads_answers = False

        def demonstrations(self) -> list[Problem]:
            return [problem(demonstration="d")]

        def documents(self) -> tuple[str, ...]:
            return ("text",)

        def check_rewards(self) -> None:
            raise UserError("no key for the judge")

        def problem_from_row(self, row: Any, where: str) -> Problem:
            return problem(where)

        def fingerprint(self) -> str:
            return "mine"

    task = complete(More())
    assert (task.name, task.max_tokens, task.reads_answers, task.fingerprint()) == ("more of it", 7, False, "mine")
    assert task.demonstrations()[0].demonstration == "d"
    assert list(task.documents()) == ["text"]
    with pytest.raises(UserError, match=r"^no key for the judge$"):
        task.check_rewards()
    found = task.problem_from_row({}, "row 9")
    assert found is not None and found.id == "row 9"


def test_a_subclass_of_task_is_whole() -> None:
    class Mine(Two, Task):
        name = "mine"

    task = Mine()
    assert complete(task) is task and isinstance(task, Task)
    assert task.max_tokens is None and task.demonstrations() == ()
    assert not isinstance(Two(), Task)


def test_the_default_fingerprint_sees_all_there_is() -> None:
    class Vary(Two):
        def __init__(self, **found: Any) -> None:
            self.found = {
                "train": [problem("a")],
                "test": [problem("b")],
                "demonstrations": [],
                "documents": [],
            } | found

        def problems(self, split: Split) -> list[Problem]:
            return list(self.found[split])

        def demonstrations(self) -> list[Problem]:
            return list(self.found["demonstrations"])

        def documents(self) -> list[str]:
            return list(self.found["documents"])

    variants: list[dict[str, Any]] = [
        {},
        {"train": [problem("c")]},
        {"train": [problem("a", truth="u")]},
        {"train": [problem("a", columns={"x": {1, 2}.__class__})]},
        {"train": [problem("b")], "test": [problem("a")]},
        {"test": []},
        {"demonstrations": [problem("a", demonstration="d")]},
        {"documents": ["x"]},
    ]
    prints = [complete(Vary(**changes)).fingerprint() for changes in variants]
    assert len(set(prints)) == len(variants)
    assert complete(Vary()).fingerprint() == prints[0]


def two(method: str, result: Any) -> Completed:
    """A task one method of which returns (or raises) this."""

    def answer(*arguments: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result() if callable(result) else result

    task = Two()
    setattr(task, method, answer)
    return Completed(task, "t.py:Two")


ASKED: dict[str, Callable[[Task], Any]] = {
    "problems": lambda task: task.problems("train"),
    "score": lambda task: task.score([problem("a"), problem("b")], ["r", "s"]),
    "demonstrations": lambda task: task.demonstrations(),
    "documents": lambda task: task.documents(),
    "fingerprint": lambda task: task.fingerprint(),
    "problem_from_row": lambda task: task.problem_from_row({}, "row 1"),
    "check_rewards": lambda task: task.check_rewards(),
}


@pytest.mark.parametrize(
    ("method", "result", "says"),
    [
        ("problems", None, "problems() returned nothing (None), not a list of Problem"),
        ("problems", lambda: (p for p in [problem()]), "problems() returned a generator, not a list of Problem"),
        ("problems", {}, "problems() returned a dict, not a list of Problem"),
        ("problems", "ab", "problems() returned a str, not a list of Problem"),
        ("problems", [problem(), {"id": "b"}], "problems()[1] is a dict, not a Problem"),
        ("problems", [], "problems('train') is empty"),
        (
            "problems",
            [problem(), problem("b"), problem()],
            "problems('train')[2] has the id 'a', as problems('train')[0]",
        ),
        ("problems", [problem("")], "problems('train')[0] has the id ''"),
        ("problems", [problem(id=3)], "problems('train')[0] has the id 3; it must be a text"),
        ("problems", [problem(messages=())], "problems('train')[0] (a): messages must be a tuple of"),
        (
            "problems",
            [problem(messages="q")],
            "(a): messages must be a tuple of {'role': ..., 'content': ...}, not 'q'",
        ),
        ("problems", [problem(messages=({"role": "user"},))], "(a): messages must be a tuple of"),
        ("problems", [problem(truth=3)], "(a): truth must be text, not 3"),
        ("problems", KeyError("x"), "problems() crashed: KeyError: 'x'"),
        ("problems", UserError("no key"), "no key"),
        ("score", None, "score() returned nothing (None), not a list of Score"),
        ("score", [1.0, 0.0], "score()[0] is a float, not a Score"),
        ("score", [Score(1.0)], "score() returned 1 scores for 2 responses"),
        ("score", [Score(1.0)] * 3, "score() returned 3 scores for 2 responses"),
        ("score", [Score(1.0), Score(float("nan"))], "score() gave b the reward nan; it must be a finite number"),
        ("score", [Score("1"), Score(1.0)], "score() gave a the reward '1'"),  # type: ignore[arg-type]
        ("score", [Score(1.0, 5), Score(1.0)], "score() gave a extracted=5; it must be text"),  # type: ignore[arg-type]
        ("score", ZeroDivisionError("1/0"), "score() crashed: ZeroDivisionError: 1/0 at"),
        ("demonstrations", [problem()], "demonstrations()[0] (a) has no text to imitate"),
        ("demonstrations", ["d"], "demonstrations()[0] is a str, not a Problem"),
        ("documents", "text", "documents() returned a str, not a list of str"),
        ("documents", [b"text"], "documents()[0] is a bytes, not a str"),
        ("fingerprint", 3, "fingerprint() returned a int, not text"),
        ("problem_from_row", {}, "problem_from_row() returned a dict, not a Problem or None"),
        ("check_rewards", OSError("no judge"), "check_rewards() crashed: OSError: no judge"),
    ],
)
def test_a_wrong_answer_is_named(method: str, result: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        ASKED[method](two(method, result))
    assert says in str(caught.value)
    assert isinstance(result, UserError) or str(caught.value).startswith("task t.py:Two: ")


def test_ids_are_unique_over_both_sides() -> None:
    task = two("problems", [problem("a")])
    task.problems("train")
    with pytest.raises(UserError, match=r"problems\('test'\)\[0\] has the id 'a', as problems\('train'\) has"):
        task.problems("test")


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "32"])
def test_a_limit_is_a_number_of_tokens(limit: Any) -> None:
    task = Two()
    task.max_tokens = limit  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"max_tokens = .* must be None or a number from 1 on"):
        complete(task)
