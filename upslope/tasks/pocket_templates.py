"""The word problems of the pocket world: what can be asked, with which numbers, and how it is worked out.

A template is data: facts, what is asked about them, how the same facts told as a story end, the values each number may
take, and the steps of the solution. Everything else (which numbers work, which are held out, the solution's text)
follows.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

Numbers = tuple[int, ...]

LARGEST = 60
"""No quantity is larger: some 1,400 different sums are what 172k parameters learn in two minutes."""

NAMES = ("Tom", "Ann", "Ben", "Eva", "Sam", "Mia", "Leo", "Zoe")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "cups", "shells")


def calculate(left: int, operation: str, right: int) -> int | None:
    """The value of one operation, or None if it is no whole number between 1 and ``LARGEST``.

    >>> calculate(12, "/", 4), calculate(12, "/", 5), calculate(3, "-", 3)
    (3, None, None)
    """
    if operation == "/":
        value = left // right if left % right == 0 else 0
    else:
        value = {"+": left + right, "-": left - right, "*": left * right}[operation]
    return value if 1 <= value <= LARGEST else None


@dataclass(frozen=True)
class Step:
    """One line of a solution.

    >>> str(Step(5, "*", 3, 15))
    '5 * 3 = 15'
    """

    left: int
    operation: str
    right: int
    value: int

    def __str__(self) -> str:
        return f"{self.left} {self.operation} {self.right} = {self.value}"


@dataclass(frozen=True)
class Template:
    """A kind of problem.

    ``plan`` names the operands of each step: a key of ``ranges``, or ``r1``, ``r2``, ... for the results so far.
    In the texts ``{A}``, ``{B}``, ``{C}`` stand for people and ``{things}`` for what they own.
    """

    name: str
    facts: str
    asked: str
    ending: str
    ranges: Mapping[str, Sequence[int]]
    plan: tuple[str, ...]

    @cached_property
    def workable(self) -> tuple[Numbers, ...]:
        """All numbers for which every step has a value, in a fixed order."""
        return tuple(numbers for numbers in itertools.product(*self.ranges.values()) if self._steps(numbers))

    def split(self, *, held_out: bool) -> tuple[Numbers, ...]:
        """The workable numbers on one side of the line between training and test."""
        return tuple(numbers for numbers in self.workable if is_held_out(self.name, numbers) == held_out)

    def work_out(self, numbers: Numbers, operations: Sequence[str] | None = None) -> tuple[Step, ...] | None:
        """The steps of the solution, or None if one of them has no value; ``operations`` replaces the right ones."""
        return self._steps(numbers, operations)

    @property
    def operations(self) -> tuple[str, ...]:
        """The right operation of each step."""
        return tuple(line.split()[1] for line in self.plan)

    def values(self, numbers: Numbers) -> dict[str, int]:
        """Every number of the story by its name: those given and those worked out."""
        steps = self._steps(numbers)
        if steps is None:
            raise ValueError(f"{self.name} has no solution with {numbers}")
        return dict(zip(self.ranges, numbers, strict=True)) | {f"r{i}": step.value for i, step in enumerate(steps, 1)}

    def _steps(self, numbers: Numbers, operations: Sequence[str] | None = None) -> tuple[Step, ...] | None:
        known = dict(zip(self.ranges, numbers, strict=True))
        steps = []
        for line, operation in zip(self.plan, operations or self.operations, strict=True):
            first, _, second = line.split()
            value = calculate(known[first], operation, known[second])
            if value is None:
                return None
            steps.append(Step(known[first], operation, known[second], value))
            known[f"r{len(steps)}"] = value
        return tuple(steps)


@cache
def is_held_out(template: str, numbers: Numbers) -> bool:
    """Whether these numbers of this template belong to the test split: one in eight, whatever the seed.

    The answer is a hash, so no list has to be kept and no two places can disagree about it: whatever tells or asks
    a problem (training questions, demonstrations, pretraining stories) consults this function.
    """
    digest = hashlib.sha256(f"{template}/{','.join(map(str, numbers))}".encode()).digest()
    return digest[0] % 8 == 0


_FEW = range(2, 7)
_SOME = range(2, 11)
_TENS = (20, 30, 40, 50)

TEMPLATES = (
    Template(
        "gain and give",
        "{A} has {x} {things}. {A} buys {y} more and gives {z} to {B}.",
        "How many {things} does {A} have now?",
        "Now {A} has {r2} {things}.",
        {"x": _SOME, "y": _SOME, "z": _SOME},
        ("x + y", "r1 - z"),
    ),
    Template(
        "bags and more",
        "{A} has {k} bags with {x} {things} in each bag. {A} finds {y} more.",
        "How many {things} does {A} have now?",
        "Now {A} has {r2} {things}.",
        {"k": _FEW, "x": _SOME, "y": _SOME},
        ("k * x", "r1 + y"),
    ),
    Template(
        "boxes and loss",
        "{A} buys {k} boxes with {x} {things} in each box. {A} loses {y} of them.",
        "How many {things} are left?",
        "So {r2} {things} are left.",
        {"k": _FEW, "x": _SOME, "y": _SOME},
        ("k * x", "r1 - y"),
    ),
    Template(
        "pool and share",
        "{A} has {x} {things} and {B} has {y}. They share all of them among {k} friends.",
        "How many {things} does each friend get?",
        "So each friend gets {r2} {things}.",
        {"x": range(2, 16), "y": range(2, 16), "k": _FEW},
        ("x + y", "r1 / k"),
    ),
    Template(
        "give and box",
        "{A} has {x} {things}. {A} gives {y} to {B} and puts the rest in {k} boxes.",
        "How many {things} are in each box?",
        "So {r2} {things} are in each box.",
        {"x": range(8, 31), "y": _SOME, "k": _FEW},
        ("x - y", "r1 / k"),
    ),
    Template(
        "bags and share",
        "{A} has {k} bags with {x} {things} in each bag. {A} shares them among {m} friends.",
        "How many {things} does each friend get?",
        "So each friend gets {r2} {things}.",
        {"k": range(2, 9), "x": range(2, 13), "m": _FEW},
        ("k * x", "r1 / m"),
    ),
    Template(
        "times and more",
        "{A} has {x} {things}. {B} has {k} times as many as {A}. {C} has {y} more than {B}.",
        "How many {things} does {C} have?",
        "So {C} has {r2} {things}.",
        {"x": _SOME, "k": _FEW, "y": _SOME},
        ("x * k", "r1 + y"),
    ),
    Template(
        "more and times",
        "{A} has {x} {things}. {B} has {y} more than {A}. {C} has {k} times as many as {B}.",
        "How many {things} does {C} have?",
        "So {C} has {r2} {things}.",
        {"x": _SOME, "y": _SOME, "k": _FEW},
        ("x + y", "r1 * k"),
    ),
    Template(
        "pages and days",
        "{A} reads {x} pages each morning and {y} pages each evening for {k} days.",
        "How many pages does {A} read?",
        "So {A} reads {r2} pages.",
        {"x": _SOME, "y": _SOME, "k": _FEW},
        ("x + y", "r1 * k"),
    ),
    Template(
        "shop and change",
        "{A} has {x} dollars. {A} buys {k} {things} for {y} dollars each.",
        "How many dollars are left?",
        "So {r2} dollars are left.",
        {"x": _TENS, "k": _FEW, "y": _SOME},
        ("k * y", "x - r1"),
    ),
    Template(
        "two kinds of bags",
        "{A} has {k} bags with {x} {things} in each bag and {m} boxes with {y} {things} in each box.",
        "How many {things} does {A} have?",
        "So {A} has {r3} {things}.",
        {"k": _FEW, "x": _SOME, "m": _FEW, "y": _SOME},
        ("k * x", "m * y", "r1 + r2"),
    ),
    Template(
        "fewer together",
        "{A} has {x} {things}. {B} has {y} fewer than {A}. They find {z} more.",
        "How many {things} do they have now?",
        "Now they have {r3} {things}.",
        {"x": range(4, 21), "y": _SOME, "z": _SOME},
        ("x - y", "x + r1", "r2 + z"),
    ),
)


def words() -> tuple[str, ...]:
    """Every word and sign that a text of this world can contain, digits and the new line aside, sorted."""
    text = " ".join(f"{template.facts} {template.asked} {template.ending}" for template in TEMPLATES)
    plain = re.sub(r"\{\w+\}", " ", text)
    return tuple(sorted({*re.findall(r"[A-Za-z]+|[^\sA-Za-z]", plain), *NAMES, *THINGS, *"+-*/=", "####"}))
