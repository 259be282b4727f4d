"""An object with two methods is a whole task: the rest has defaults, and whatever it gets wrong is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.base import Split, Task
from upslope.tasks.complete import Completed, complete
from upslope.types import Problem, Score


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
    assert isinstance(task, Task)
    assert task.max_tokens is None and task.demonstrations() == ()
    checked = complete(task)
    assert checked is not task and checked.name == "mine" and complete(checked) is checked
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
