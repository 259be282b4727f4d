"""What ``upslope score`` does: given responses, the same lines with rewards."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from upslope.errors import UserError, nearest
from upslope.tasks.base import Task, scores_of, sides
from upslope.tasks.complete import complete
from upslope.tasks.response import Response
from upslope.tasks.text_files import json_lines, open_text
from upslope.types import Problem, Score

BATCH = 64
"""How many lines are scored at once."""


def score_file(task: Task, source: Path | TextIO | None, out: TextIO, err: TextIO) -> None:
    """Copy JSONL lines from ``source`` to ``out`` with ``reward`` and ``extracted`` added; a summary goes to ``err``.

    A line has a ``response`` and either the data set's own columns (which win, and for which nothing is loaded) or the
    ``id`` of one of the task's problems. Where a task has several reward functions their values are added as ``parts``.
    Lines go out in order, in batches of ``BATCH``, flushed; a bad line stops the command after all lines before it are
    out. Without a ``source`` (Python has no standard input where it is closed) it is a UserError.
    """
    if source is None:
        raise UserError("standard input is closed: name a file of responses, or pipe them in")
    task = complete(task)
    scores: list[Score] = []
    for batch in _batches(task, source):
        problems = [problem for _, problem in batch]
        new = scores_of(task, problems, [_response(row) for row, _ in batch])
        for (row, _), score in zip(batch, new, strict=True):
            added = {"reward": score.reward, "extracted": score.extracted}
            if score.timed_out:
                added = {"reward": None, "extracted": None, "timed_out": True}
            added |= {} if score.right is None else {"right": score.right}
            parts = {"parts": dict(score.parts)} if score.parts else {}
            # ASCII only, so that any output encoding can hold it
            print(json.dumps({**row, **added, **parts}, default=float), file=out)  # numbers of any library
        out.flush()
        scores += new
    if not scores:
        raise UserError("nothing to score: the input has no lines")
    known = [score for score in scores if not score.timed_out]
    summary = f"{len(scores)} responses"
    if known:
        summary += f", mean reward {math.fsum(score.reward for score in known) / len(known):.4f}"
    if any(score.right is not None for score in known):
        summary += f", {sum(score.is_right for score in known)} right"
    if task.reads_answers:
        summary += f", {sum(score.extracted is None for score in known)} without an answer"
    if len(known) < len(scores):
        summary += f", {len(scores) - len(known)} timed out"
    print(summary, file=err)


def _batches(task: Task, source: Path | TextIO) -> Iterator[list[tuple[dict[str, Any], Problem]]]:
    batch: list[tuple[dict[str, Any], Problem]] = []
    known: dict[str, Problem] = {}
    try:
        with open_text(source) if isinstance(source, Path) else nullcontext(source) as file:
            name = str(source) if isinstance(source, Path) else _name(source)
            for number, row in json_lines(file, name):
                batch.append((row, _problem(task, row, f"{name} row {number}", known)))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
    except UserError:
        yield batch  # nothing lost: the good lines before the bad one go out first
        raise
    yield batch


def _response(row: Mapping[str, Any]) -> Response:
    """With its tokens where the line has them, as one of ``upslope eval --attempts`` has."""
    found = next((row[key] for key in ("tokens", "completion_ids") if isinstance(row.get(key), list)), None)
    return Response(row["response"], found if found and all(type(i) is int for i in found) else None)


def _name(stream: TextIO) -> str:
    return "standard input" if stream is sys.stdin else str(getattr(stream, "name", "input"))


def _problem(task: Task, row: Mapping[str, Any], where: str, known: dict[str, Problem]) -> Problem:
    if not isinstance(row.get("response"), str):
        raise UserError(f"{where}: needs a string 'response', the text to score")
    taken = [key for key in ("reward", "extracted", "parts", "right") if key in row]
    if taken:
        raise UserError(f"{where}: already has {taken[0]!r}, which would be overwritten; rename or remove it")
    own = {key: value for key, value in row.items() if key != "response"}
    problem = task.problem_from_row(own, where)
    if problem is not None:
        return problem
    if row.get("id") is None:
        raise UserError(f"{where}: needs the 'id' of a {task.name} problem, or the data set's own columns")
    if not known:
        known.update({problem.id: problem for side in sides(task).values() for problem in side})
    if str(row["id"]) not in known:
        raise UserError(f"{where}: {task.name} has no problem {row['id']!r}{nearest(str(row['id']), known):.200}")
    return known[str(row["id"])]
