r"""Task ``math``: problems whose answer is an expression in ``\boxed{...}``, as in MATH (arXiv 2103.03874).

A row has the problem (``problem``, ``prompt`` or ``question``) and the right answer: ``answer``, a number or an
expression with or without its box, or, where there is none, the last box of ``solution``. A ``solution`` with a box is
also the demonstration. The prompt is one user message: the problem and ``INSTRUCTION``.

The reward is 1.0 for the right answer and 0.0 for anything else; ``upslope.tasks.boxed`` has the rules. The lenient
reading takes the last number of the text where the truth is a number and there is no box.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from upslope.errors import UserError
from upslope.tasks.answer import last_number
from upslope.tasks.boxed import boxed, same_answer
from upslope.tasks.boxed_number import MAX_DIGITS, number_of
from upslope.tasks.boxed_truth import unusable
from upslope.tasks.columns import Columns, listed
from upslope.tasks.expressions import Expressions, require_math_verify
from upslope.tasks.files import Files, find_files
from upslope.tasks.problem_set import Row
from upslope.tasks.rewards import NO_REWARDS, Rewards
from upslope.tasks.row_task import RowTask
from upslope.types import Problem, Score

INSTRUCTION = "Reason step by step, and put the final answer in \\boxed{}."
"""What every prompt ends with. Copied literally it is not an answer, as its box is empty."""
QUESTIONS = ("problem", "prompt", "question")
SECONDS = 5.0
"""For the comparison of one answer."""


class Mathematics(RowTask):
    """Rows of problems with boxed answers, and their reward or the user's own."""

    name = "math"
    fields = (QUESTIONS, ("answer",), ("solution",), ("id",), ("split",))

    def __init__(self, files: Files, rewards: Rewards, columns: Columns, seconds: float) -> None:
        super().__init__(files, rewards, columns)
        self._expressions = Expressions(seconds, num=os.cpu_count() or 1)

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        question = next((row[name] for name in QUESTIONS if row.get(name) is not None), None)
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"{where}: needs 'problem', a text that is not empty; it has {listed(row)}")
        solution = row.get("solution")
        return Problem(
            id="" if row.get("id") is None else str(row["id"]),
            messages=({"role": "user", "content": f"{question}\n\n{INSTRUCTION}"},),
            truth=_truth(row, where),
            demonstration=solution if isinstance(solution, str) and boxed(solution) is not None else None,
            columns=dict(row),
        )

    def without_files(self) -> Iterable[Row]:
        raise UserError("task math has no data: give --data FILE with the columns problem and answer (or solution)")

    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """A line of ``upslope score`` that has its own answer or solution; the problem may be missing."""
        if row.get("answer") is None and row.get("solution") is None:
            return None
        question = next((str(row[name]) for name in QUESTIONS if row.get(name) is not None), "")
        return Problem(where, ({"role": "user", "content": question},), truth=_truth(row, where), columns=row)

    def check_rewards(self) -> None:
        if not self._rewards.functions:
            require_math_verify()

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """1.0 for the right answer and 0.0 for anything else, or what the user's rewards say."""
        found = [boxed(response) for response in responses]
        if self._rewards.functions:
            own = super().score(problems, responses)
            return [dataclasses.replace(score, extracted=answer) for score, answer in zip(own, found, strict=True)]
        self.check_rewards()
        verdicts = [a is not None and same_answer(p.truth, a) for p, a in zip(problems, found, strict=True)]
        open_places = [place for place, verdict in enumerate(verdicts) if verdict is None]
        later = self._expressions.same([problems[i].truth for i in open_places], [found[i] or "" for i in open_places])
        for place, verdict in zip(open_places, later, strict=True):
            verdicts[place] = verdict
        return [
            Score(float(bool(right)), answer, _lenient(problem, response, answer, bool(right)))
            for problem, response, answer, right in zip(problems, responses, found, verdicts, strict=True)
        ]


def open(
    data: str | None = None,
    *,
    eval_data: str | None = None,
    rewards: Rewards = NO_REWARDS,
    columns: Columns = MappingProxyType({}),
    seconds: float = SECONDS,
) -> Mathematics:
    """The task. Paths are checked now, rows are read when they are first needed. ``seconds``: for the comparison of one
    answer, which is wrong if that is not enough. Raises UserError."""
    if not 0 < seconds < 3600:
        raise UserError(f"task.options.seconds = {seconds:g}: the comparison of an answer needs a time, such as 5")
    return Mathematics(find_files(data, eval_data) if data is not None else (), rewards, columns, seconds)


def _truth(row: Mapping[str, Any], where: str) -> str:
    """The right answer of a row, out of its box."""
    answer, solution = row.get("answer"), row.get("solution")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return _numeral(answer, where)
    given, source = (answer, "answer") if answer is not None else (solution, "solution")
    if not isinstance(given, str):
        raise UserError(f"{where}: needs 'answer', or a 'solution' with \\boxed{{...}}; it has {listed(row)}")
    inside = boxed(given)
    if inside is None and (source == "solution" or not given.strip() or "boxed" in given):
        raise UserError(f"{where}: {source!r} holds no answer in \\boxed{{...}}: {given[-60:]!r}")
    truth = inside if inside is not None else given.strip()
    why = unusable(truth)
    if why is not None:
        raise UserError(f"{where}: {source!r} is no answer that another can be equal to: {why}: {truth[-60:]!r}")
    return truth


def _numeral(number: float, where: str) -> str:
    """Without an exponent, as Python writes one for 1e22."""
    if not -(10**MAX_DIGITS) < number < 10**MAX_DIGITS:  # nan is neither
        raise UserError(f"{where}: 'answer' is no finite number below 1e{MAX_DIGITS}, which no answer can be")
    return format(Decimal(str(number)), "f")


def _lenient(problem: Problem, response: str, answer: str | None, right: bool) -> float:
    if answer is not None or number_of(problem.truth) is None:
        return float(right)
    last = last_number(response)
    return float(last is not None and bool(same_answer(problem.truth, last)))
