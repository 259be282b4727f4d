"""What ``upslope score`` does: given responses, the same lines with rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO, get_args, runtime_checkable

from upslope.errors import UserError, nearest
from upslope.tasks.base import Split, Task
from upslope.tasks.rows import json_lines
from upslope.types import Problem, Score

BATCH = 64
"""How many lines are scored at once."""


@runtime_checkable
class RowTask(Task, Protocol):
    """A task that can score a row which carries its own problem, without loading any data set."""

    reads_answers: bool
    """Whether ``Score.extracted`` means something."""

    def problem_from_row(self, row: Mapping[str, Any], where: str) -> Problem | None:
        """The problem in a row's own columns, or None if the columns needed for scoring are not there."""
        ...


def score_file(task: Task, source: Path | TextIO, out: TextIO, err: TextIO) -> None:
    """Copy JSONL lines from ``source`` to ``out`` with ``reward`` and ``extracted`` added; a summary goes to ``err``.

    A line has a ``response`` and either the data set's own columns (which win, and for which nothing is loaded) or the
    ``id`` of one of the task's problems. Where a task has several reward functions their values are added as ``parts``.
    Lines go out in order, in batches of ``BATCH``, flushed; a bad line stops the command after all lines before it are
    out.
    """
    scores: list[Score] = []
    for batch in _batches(task, source):
        problems = [problem for _, problem in batch]
        new = task.score(problems, [row["response"] for row, _ in batch])
        for (row, _), score in zip(batch, new, strict=True):
            added = {"reward": score.reward, "extracted": score.extracted}
            parts = {"parts": dict(score.parts)} if score.parts else {}
            # ASCII only, so that any output encoding can hold it
            print(json.dumps({**row, **added, **parts}), file=out)
        out.flush()
        scores += new
    if not scores:
        raise UserError("nothing to score: the input has no lines")
    mean = math.fsum(score.reward for score in scores) / len(scores)
    summary = f"{len(scores)} responses, mean reward {mean:.4f}"
    if not isinstance(task, RowTask) or task.reads_answers:
        summary += f", {sum(score.extracted is None for score in scores)} without an answer"
    print(summary, file=err)


def _batches(task: Task, source: Path | TextIO) -> Iterator[list[tuple[dict[str, Any], Problem]]]:
    batch: list[tuple[dict[str, Any], Problem]] = []
    known: dict[str, Problem] = {}
    try:
        for where, row in json_lines(source):
            batch.append((row, _problem(task, row, where, known)))
            if len(batch) == BATCH:
                yield batch
                batch = []
    except UserError:
        yield batch  # nothing lost: the good lines before the bad one go out first
        raise
    yield batch


def _problem(task: Task, row: Mapping[str, Any], where: str, known: dict[str, Problem]) -> Problem:
    if not isinstance(row.get("response"), str):
        raise UserError(f"{where}: needs a string 'response', the text to score")
    taken = [key for key in ("reward", "extracted", "parts") if key in row]
    if taken:
        raise UserError(f"{where}: already has {taken[0]!r}, which would be overwritten; rename or remove it")
    own = {key: value for key, value in row.items() if key != "response"}
    problem = task.problem_from_row(own, where) if isinstance(task, RowTask) else None
    if problem is not None:
        return problem
    if row.get("id") is None:
        raise UserError(f"{where}: needs the 'id' of a {task.name} problem, or the data set's own columns")
    if not known:
        known.update(_by_id(task))
    if str(row["id"]) not in known:
        raise UserError(f"{where}: {task.name} has no problem {row['id']!r}{nearest(str(row['id']), known):.200}")
    return known[str(row["id"])]


def _by_id(task: Task) -> dict[str, Problem]:
    known: dict[str, Problem] = {}
    missing: list[UserError] = []
    for split in get_args(Split):
        try:
            known |= {problem.id: problem for problem in task.problems(split)}
        except UserError as error:  # a task may have one split only
            missing.append(error)
    if not known:
        raise missing[0]
    return known
