"""A task of one's own: reach a number with four given ones, as in the television game.

    upslope train --task examples/countdown.py:Countdown --model DIRECTORY
    upslope train --task examples/countdown.py:Countdown task.options.count=3 --model DIRECTORY

Two methods are all that a task needs, ``problems`` and ``score``; the rest of ``upslope.tasks.base.Task`` has defaults.
The parameters of ``__init__`` are the task's options, but for ``seed``, which is the run's.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import random
import re
from collections.abc import Sequence
from fractions import Fraction

from upslope.errors import UserError
from upslope.types import Problem, Score

NUM_TRAIN, NUM_TEST = 2000, 200
LONGEST = 100
"""Characters of an expression; a longer one is not read."""
PROMPT = (
    "Using the numbers {numbers}, each exactly once, and + - * / and brackets, write an expression for {target}. "
    "Think first, then give it as <answer>(1 + 2) / 3</answer>."
)
OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Countdown:
    """Generated puzzles, each of which has a solution."""

    max_tokens = 256

    def __init__(self, seed: int = 0, count: int = 4, largest: int = 25) -> None:
        if not 2 <= count <= 6 or largest < 10:
            raise UserError(f"count = {count} and largest = {largest}: give 2 to 6 numbers up to 10 or more")
        self.seed, self.count, self.largest = seed, count, largest

    def problems(self, split: str) -> list[Problem]:
        """Puzzles of one side; which side a set of numbers is on is a matter of its hash, so none is on both."""
        draw = random.Random(f"{self.seed}/{split}")
        found: list[Problem] = []
        while len(found) < (NUM_TRAIN if split == "train" else NUM_TEST):
            numbers = [draw.randint(1, self.largest) for _ in range(self.count)]
            target = reachable(numbers, draw)
            if target is not None and held_out(numbers) == (split == "test"):
                text = PROMPT.format(numbers=", ".join(map(str, numbers)), target=target)
                found.append(
                    Problem(
                        id=f"countdown/{split}/{len(found)}",
                        messages=({"role": "user", "content": text},),
                        truth=str(target),
                        columns={"numbers": numbers},
                    )
                )
        return found

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """1 for an expression that uses every number once and equals the target, else 0."""
        return [self._score(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def _score(self, problem: Problem, response: str) -> Score:
        answers = re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL)
        if not answers:
            return Score(0.0)
        answer = answers[-1].strip()
        found = value(answer)
        right = found is not None and found == (Fraction(problem.truth), sorted(problem.columns["numbers"]))
        return Score(float(right), extracted=answer)


def reachable(numbers: Sequence[int], draw: random.Random) -> int | None:
    """A target that the numbers reach, from left to right; None if this try gave no whole number from 1 to 100."""
    total = Fraction(numbers[0])
    for number in numbers[1:]:
        total = draw.choice([operator.add, operator.sub, operator.mul, operator.truediv])(total, Fraction(number))
    return int(total) if total.denominator == 1 and 1 <= total <= 100 else None


def held_out(numbers: Sequence[int]) -> bool:
    """Whether these numbers, in any order, are on the test side."""
    return hashlib.sha256(repr(sorted(numbers)).encode()).digest()[0] < 26


def value(expression: str) -> tuple[Fraction, list[int]] | None:
    """What an expression is worth, exactly, and the numbers in it, sorted; None if it is none.

    Nothing is evaluated by Python: the text is parsed, and only whole numbers and four operations are known.

    >>> value("(1 + 2) / 4")
    (Fraction(3, 4), [1, 2, 4])
    >>> value("2 ** 99") is value("1 / 0") is value("import os") is None
    True
    """
    if len(expression) > LONGEST:
        return None
    try:
        tree = ast.parse(expression, mode="eval").body
        numbers: list[int] = []
        return walk(tree, numbers), sorted(numbers)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def walk(node: ast.expr, numbers: list[int]) -> Fraction:
    """The value of a node; the numbers below it are added to the list. Raises ValueError for anything else."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        left, right = walk(node.left, numbers), walk(node.right, numbers)
        result: Fraction = OPERATIONS[type(node.op)](left, right)
        return result
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    raise ValueError("neither a whole number nor one of + - * /")
