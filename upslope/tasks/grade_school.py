"""Task ``gsm8k``: grade-school word problems (Cobbe et al. 2021, arXiv:2110.14168), scored by the final number.

The prompt is one user message: the question and ``INSTRUCTION``. The reward is 1.0 if the number that a response
announces (``upslope.tasks.answer`` has the rules) is exactly the right one, else 0.0: no credit for format. The
demonstration is the data's worked solution without its calculator annotations ``<<3*6=18>>``.

The data is one of

- a folder with ``train.jsonl`` and ``test.jsonl``, as the data set is published (one of the two may be missing), or
  with the same in another format (see ``upslope.tasks.files``);
- a single file of such rows (``question``, ``answer``): it is the training side and ``eval_data`` the held-out
  one, or, without ``eval_data``, its ``split`` column or a hash of the prompt divides it (see
  ``upslope.tasks.problem_set``);
- nothing: ``openai/gsm8k`` from the Hugging Face hub, by the optional extra ``upslope[hub]``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args

from upslope.errors import UserError
from upslope.tasks.answer import extract, lenient, score_numbers
from upslope.tasks.base import Split
from upslope.tasks.calculator import Calculator, filled
from upslope.tasks.columns import Columns, listed
from upslope.tasks.episode import Episode
from upslope.tasks.files import Files, find_files
from upslope.tasks.problem_set import Row
from upslope.tasks.rewards import NO_REWARDS, Rewards
from upslope.tasks.row_task import RowTask
from upslope.types import Problem, Score

INSTRUCTION = "Solve the problem step by step. Then write the final answer on the last line as: #### <number>"
"""What every prompt ends with. Copied literally it is not an answer, as it holds no digit."""
HUB_ID = "openai/gsm8k"

_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


class GSM8K(RowTask):
    """The data set, and its exact reward or the user's own."""

    name = "gsm8k"
    fields = (("question",), ("answer",), ("split",))

    def __init__(
        self,
        files: Files,
        keep_annotations: bool,
        rewards: Rewards,
        columns: Columns = MappingProxyType({}),
        calculator: bool = False,
    ) -> None:
        super().__init__(files, rewards, columns)
        self._keep_annotations = keep_annotations
        self._calculator = Calculator() if calculator else None

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"{where}: needs 'question', a non-empty text; it has {listed(row)}")
        solution, truth = _solution(row, where)
        replies: tuple[tuple[int, int], ...] = ()
        if self._calculator is not None:
            solution, replies = filled(solution)
        elif not self._keep_annotations:
            solution = _ANNOTATION.sub("", solution)
        return Problem(
            id="",
            messages=({"role": "user", "content": f"{question}\n\n{INSTRUCTION}"},),
            truth=truth,
            demonstration=solution,
            replies=replies,
            columns=dict(row),
        )

    def episode(self, problem: Problem) -> Episode | None:
        return self._calculator

    def without_files(self) -> Iterator[Row]:
        return _hub_rows()

    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """A line of ``upslope score`` that has its own ``answer``, a worked solution; the question may be missing."""
        if row.get("answer") is None:
            return None
        _, truth = _solution(row, where)
        question = str(row.get("question") or "")
        return Problem(where, ({"role": "user", "content": question},), truth=truth, columns=row)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """1.0 for the right number and 0.0 for anything else, or what the user's rewards say."""
        if not self._rewards.functions:
            return score_numbers(problems, responses)
        scores = super().score(problems, responses)
        return [
            dataclasses.replace(s, extracted=extract(r), lenient=lenient(p, r))
            for p, r, s in zip(problems, responses, scores, strict=True)
        ]


def open(
    data: str | None = None,
    keep_annotations: bool = False,
    *,
    eval_data: str | None = None,
    rewards: Rewards = NO_REWARDS,
    columns: Columns = MappingProxyType({}),
    calculator: bool = False,
) -> GSM8K:
    """The task. Paths are checked now; rows are read, or the hub is asked, when they are first needed.

    ``keep_annotations`` leaves ``<<3*6=18>>`` in the demonstrations; with ``calculator`` they stay too, and what
    follows ``<<3*6=`` is the calculator's to write, in attempts and demonstrations (``upslope.tasks.calculator``).
    ``rewards`` replace the exact reward; ``columns`` names the file's own columns for ``question``, ``answer`` and
    ``split``.
    """
    if calculator and keep_annotations:
        raise UserError("calculator=true keeps the annotations already; leave keep_annotations out")
    if data is None and eval_data is not None:
        raise UserError("--eval-data without --data: the data set of the hub has its own test split")
    return GSM8K(
        find_files(data, eval_data) if data is not None else (), keep_annotations, rewards, columns, calculator
    )


def _solution(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The worked solution of a row and the number it ends with."""
    solution = row.get("answer")
    if not isinstance(solution, str):
        raise UserError(
            f"{where}: needs 'answer', a worked solution that ends with '#### <number>'; it has {listed(row)}"
        )
    truth = extract(solution)
    if truth is None:
        raise UserError(f"{where}: 'answer' does not end with '#### <number>'; add that line to the worked solution")
    return solution, truth


def _hub_rows() -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{HUB_ID} needs the package datasets: pip install 'upslope[hub]', or give --data a folder with "
            "train.jsonl and test.jsonl"
        ) from error
    try:
        splits = datasets.load_dataset(HUB_ID, "main")
    except Exception as error:  # datasets raises its own, huggingface_hub's, httpx's and the system's errors
        raise UserError(
            f"cannot get {HUB_ID} from the hub ({type(error).__name__}: {' '.join(str(error).split()):.200}); "
            "if you are offline, give --data a folder with train.jsonl and test.jsonl"
        ) from error
    for split in get_args(Split):
        for place, value in enumerate(splits[split]):
            yield Row(f"{HUB_ID} {split}", place + 1, dict(value), split, place)
