"""Built-in prompts, so that a measurement needs no data set: about as long as GSM8K's, always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random

from upslope.tasks.answer import score_numbers
from upslope.tasks.base import Split, Task
from upslope.tasks.grade_school import INSTRUCTION
from upslope.types import Problem, Score

NUM_PROBLEMS = 4096
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry")
Solve = Callable[[int, int, int, int], int]
TEMPLATES: tuple[tuple[str, Solve], ...] = (
    (
        "{name} bakes {a} trays of rolls every morning, and each tray holds {b} rolls. The first {c} rolls are given "
        "to the neighbours, and all the others are sold at the market for {d} dollars each. How many dollars does "
        "{name} take at the market every day?",
        lambda a, b, c, d: (a * b - c) * d,
    ),
    (
        "{name} reads {a} pages of a book on every working day from Monday to Friday, and {b} pages a day on Saturday "
        "and Sunday. The school year began {c} weeks ago, and {d} of those weeks were holidays without any reading. "
        "How many pages has {name} read since then?",
        lambda a, b, c, d: (5 * a + 2 * b) * (c - d),
    ),
    (
        "A farmer has {a} rows of apple trees with {b} trees in each row. This year every tree gave {c} apples, but "
        "{d} apples in all were too small to be sold and went to the horses of {name}. How many apples are left for "
        "the farmer to sell?",
        lambda a, b, c, d: a * b * c - d,
    ),
    (
        "{name} saves {a} dollars every week from helping in a shop, and {b} dollars every week from walking dogs. "
        "After {c} weeks {name} buys a bicycle bell for {d} dollars and puts the rest into a tin. How many dollars "
        "are in the tin?",
        lambda a, b, c, d: (a + b) * c - d,
    ),
)


class WordProblems(Task):
    """A task of its own, scored as GSM8K is: the number that a response announces."""

    name = "word problems"

    def problems(self, split: Split) -> Sequence[Problem]:
        """The same on both sides: nobody learns from them."""
        return self._problems

    @cached_property
    def _problems(self) -> tuple[Problem, ...]:
        return tuple(word_problem(i) for i in range(NUM_PROBLEMS))

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return score_numbers(problems, responses)


def word_problem(index: int) -> Problem:
    """Number ``index``; its text is a function of that alone.

    >>> word_problem(3).messages[0]["content"][:40]
    'Grace saves 7 dollars every week from he'
    """
    random = Random(f"word problem {index}")
    text, solve = TEMPLATES[index % len(TEMPLATES)]
    a, b, c, d = random.randint(4, 9), random.randint(6, 12), random.randint(11, 20), random.randint(2, 9)
    question = text.format(name=random.choice(NAMES), a=a, b=b, c=c, d=d)
    content = f"{question}\n\n{INSTRUCTION}"
    return Problem(f"word/{index}", ({"role": "user", "content": content},), truth=str(solve(a, b, c, d)))
