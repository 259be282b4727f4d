"""What is compared: an evaluation of a run, problem by problem."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upslope.errors import UserError
from upslope.inspect.reading.attempts import AttemptsFile
from upslope.inspect.reading.places import RunPlace
from upslope.marks import FULL_MARKS, comes_to


@dataclass(frozen=True)
class Answer:
    """What one side said to a problem.

    >>> Answer("1 + 1 = ?", "2", 1.0, right=True).right
    True
    """

    prompt: str
    text: str
    reward: float
    right: bool


@dataclass(frozen=True)
class CompareSide:
    """A name, and the first answer to every problem of one evaluation, by the problem."""

    name: str
    answers: dict[str, Answer]


def open_side(text: str) -> CompareSide:
    """``RUN``: its last evaluation; ``RUN@STEP``: the one after so many steps; or a parquet file of one. Raises
    UserError where there is none."""
    path = Path(text)
    if path.is_file():
        return CompareSide(text, _answers(path))
    folder, _, step = text.rpartition("@") if not path.is_dir() and "@" in text else (text, "", "")
    run = RunPlace(Path(folder).name, Path(folder))
    steps = run.attempt_steps("eval")
    if not steps:
        raise UserError(
            f"{folder}: no evaluation was kept there; give a run's folder, or a file rollouts/eval-*.parquet"
        )
    if step and not (step.isascii() and step.isdecimal() and int(step) in steps):
        raise UserError(f"{text}: there are evaluations after {', '.join(map(str, steps[-12:]))} steps")
    chosen = int(step) if step else steps[-1]
    file = run.attempts_file("eval", chosen)
    if file is None:
        raise UserError(f"{folder}: the evaluation after {chosen} steps is no file of this run")
    return CompareSide(f"{folder}@{chosen}", _answers(file))


def _answers(path: Path) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    with AttemptsFile(path) as file:
        says = file.has("right")  # files of older versions do not, and knew no other rule
        for row in file.brief(("prompt_text", "response_text", "right")):
            reward = 0.0 if row.get("reward") is None else row["reward"]
            right = row["right"] if says else comes_to(reward, FULL_MARKS)
            if right is None:
                raise UserError(
                    f"{path}: nothing says which attempts are right, for there were several rewards; evaluate again "
                    "with task.right, or with the reward that decides marked (FILE.py:NAME=right)"
                )
            answer = Answer(str(row.get("prompt_text") or ""), str(row.get("response_text") or ""), reward, right)
            found.setdefault(str(row.get("problem")), answer)
    return found
