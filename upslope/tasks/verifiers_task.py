"""Task ``verifiers:NAME``: an environment of the verifiers library (0.3's classic interface), in this process.

NAME is what ``verifiers.load_environment`` takes: a module, or an installed environment. Its options are the arguments
of that environment's own ``load_environment``. Problems are the rows of its data sets; a reward is what the
environment itself gives when its model says the response: it is handed a client that says just that, so its rubric,
parser and set-up run as they always do.

Environments of one turn only: one that answers back, or lends tools, wants a conversation.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from upslope.errors import UserError
from upslope.plugins import said
from upslope.tasks.awaited import all_of
from upslope.tasks.base import Split, Task
from upslope.tasks.conversation import chat_of
from upslope.tasks.problem_set import ProblemSet, Row, make_problem_set
from upslope.tasks.verifiers_client import spoken_client
from upslope.types import Problem, Score


class VerifiersTask(Task):
    """One environment; see ``open``."""

    reads_answers = False

    def __init__(self, kind: str, environment: Any) -> None:
        self.name, self._environment = kind, environment

    def problems(self, split: Split) -> Sequence[Problem]:
        side = self._set.train if split == "train" else self._set.test
        if not side:
            raise UserError(f"verifiers:{self.name} has no {split} problems")
        return side

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Raises UserError for an attempt on which the environment fails."""
        with heard() as errors:
            scores = all_of([self._score(p, response) for p, response in zip(problems, responses, strict=True)])
        for found in scores:
            if isinstance(found, BaseException):
                raise found
        if errors:
            raise UserError(f"verifiers:{self.name} failed: {errors[0]}")
        return scores

    async def _score(self, problem: Problem, response: str) -> Score:
        try:
            output = await self._environment.run_rollout(
                self._rows[problem.id], spoken_client()(response), "upslope", {}, state_columns=[]
            )
            if output.get("error") is not None:
                raise RuntimeError(str(output["error"]))
            reward, metrics = float(output["reward"]), dict(output.get("metrics") or {})
        except Exception as error:  # of somebody's environment
            raise UserError(
                f"problem {problem.id}: verifiers:{self.name} failed: {type(error).__name__}: {said(error, str)}"
            ) from error
        parts = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
        return Score(reward, parts=parts if len(parts) > 1 else {})

    @cached_property
    def _rows(self) -> dict[str, Mapping[str, Any]]:
        """Every problem's row, as the environment takes it."""
        sides = {"train": self._environment.get_dataset(), "test": self._held_out}
        return {
            f"{self._prefix}/{split}/{place}": dict(row)
            for split, rows in sides.items()
            for place, row in enumerate(rows or ())
        }

    @property
    def _prefix(self) -> str:
        return f"verifiers/{self.name}"

    @property
    def _held_out(self) -> Any:
        """None where the environment has no rows to evaluate on, for which it would take those to learn from."""
        return self._environment.build_eval_dataset()

    @cached_property
    def _set(self) -> ProblemSet:
        undivided = self._held_out is None
        rows = []
        for key, row in self._rows.items():
            _, split, place = key.rsplit("/", 2)
            given: Split | None = None if undivided else "test" if split == "test" else "train"
            rows.append(Row(f"verifiers:{self.name} {split}", int(place) + 1, {"key": key, **row}, given, int(place)))
        return make_problem_set(self._prefix, rows, self._build, f"verifiers:{self.name}")

    def _build(self, row: Mapping[str, Any], where: str) -> Problem:
        prompt = row["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        chat = chat_of([_plain(message) for message in messages], where)
        columns = {key: row[key] for key in row if key not in ("prompt", "key") and type(row[key]) in (str, int, float)}
        return Problem(id=row["key"], messages=chat, truth=str(row.get("answer") or ""), columns=columns)


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What the library says of errors meanwhile: a reward function that raises is 0 to it, and a line in the log."""
    errors: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    logger, ear = logging.getLogger("verifiers"), Ear(logging.ERROR)
    logger.addHandler(ear)
    try:
        yield errors
    finally:
        logger.removeHandler(ear)


def _plain(message: Any) -> dict[str, Any]:
    """A message with no more than it says: rows of a data set have every key that any message has."""
    given = message if isinstance(message, Mapping) else message.model_dump()
    return {key: value for key, value in given.items() if value is not None}


def open(kind: str, /, **options: Any) -> VerifiersTask:
    """Raises UserError if the library or the environment is not there, or it is none of one turn."""
    try:
        import verifiers

        load, single = verifiers.load_environment, verifiers.SingleTurnEnv
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"task verifiers:{kind} needs verifiers 0.3, with its classic interface ({said(error, str)}): "
            'pip install "verifiers>=0.3.1,<0.4"'
        ) from None
    logging.getLogger("verifiers").setLevel(logging.ERROR)
    try:
        environment = load(kind, **options)
    except Exception as error:  # it runs somebody's module
        raise UserError(f"task verifiers:{kind}: {said(error, str)}") from error
    if not isinstance(environment, single):
        raise UserError(
            f"verifiers:{kind} is a {type(environment).__name__}, which speaks in between; only environments of one "
            "turn (SingleTurnEnv) are supported"
        )
    if environment.requires_group_rollouts:
        raise UserError(f"verifiers:{kind} rewards attempts by comparing them, which is not supported")
    return VerifiersTask(kind, environment)
