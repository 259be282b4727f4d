"""Task ``verifiers:NAME``: an environment of the verifiers library (0.3's classic interface), in this process.

NAME is what ``verifiers.load_environment`` takes: a module, or an installed environment. Its options are the arguments
of that environment's own ``load_environment``. Problems are the rows of its data sets; a reward is what the
environment itself gives when its model says the response: it is handed a client that says just that, so its rubric,
parser and set-up run as they always do.

One that answers back, or lends tools (``MultiTurnEnv``, ``ToolEnv``), is the world of a conversation
(``upslope.tasks.verifiers_world``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from upslope.errors import UserError
from upslope.plugins import said
from upslope.tasks.awaited import all_of
from upslope.tasks.base import Split, Task
from upslope.tasks.conversation import chat_of
from upslope.tasks.episode import Episode
from upslope.tasks.problem_set import ProblemSet, Row, make_problem_set
from upslope.tasks.tools.toolbox import Tool, called_elsewhere
from upslope.tasks.verifiers_client import spoken_client
from upslope.tasks.verifiers_world import VerifiersWorld, heard, plain_message
from upslope.types import Problem, Score


class VerifiersTask(Task):
    """One environment; see ``open``."""

    reads_answers = False

    def __init__(self, kind: str, environment: Any, *, converses: bool = False) -> None:
        """``converses``: whether it answers back."""
        self.name, self._environment, self._converses = kind, environment, converses
        self._tools = [_tool(each) for each in environment.tool_defs or ()] if converses else []

    def episode(self, problem: Problem) -> Episode | None:
        if not self._converses:
            return None
        where = f"problem {problem.id}: verifiers:{self.name}"
        row = self._rows[problem.id]

        async def rollout(client: Any) -> Any:
            with heard() as errors:
                output = await self._environment.run_rollout(row, client, "upslope", {}, state_columns=[])
            error = output.get("error")
            if error is not None or errors:
                told = error.get("message", error) if isinstance(error, Mapping) else error
                raise RuntimeError(str(told) if told else errors[0])
            return output

        return VerifiersWorld(rollout, _score_of, where, self._tools)

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
            return _score_of(output)
        except Exception as error:  # of somebody's environment
            raise UserError(
                f"problem {problem.id}: verifiers:{self.name} failed: {type(error).__name__}: {said(error, str)}"
            ) from error

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
        chat = chat_of([plain_message(message) for message in messages], where)
        columns = {key: row[key] for key in row if key not in ("prompt", "key") and type(row[key]) in (str, int, float)}
        template = {"tools": self._tools} if self._tools else {}
        truth = str(row.get("answer") or "")
        return Problem(id=row["key"], messages=chat, truth=truth, columns=columns, template=template)


def _score_of(output: Mapping[str, Any]) -> Score:
    metrics = dict(output.get("metrics") or {})
    parts = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    return Score(float(output["reward"]), parts=parts if len(parts) > 1 else {})


def _tool(given: Any) -> Tool:
    function = {"name": given.name, "description": given.description, "parameters": given.parameters}
    return Tool(given.name, called_elsewhere, {"type": "function", "function": function})


def open(kind: str, /, **options: Any) -> VerifiersTask:
    """Raises UserError if the library or the environment is not there, or it is of another kind."""
    try:
        import verifiers

        load, single, several = verifiers.load_environment, verifiers.SingleTurnEnv, verifiers.MultiTurnEnv
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
    if not isinstance(environment, several):
        raise UserError(
            f"verifiers:{kind} is a {type(environment).__name__}; only environments of one conversation "
            "(SingleTurnEnv, MultiTurnEnv, ToolEnv) are supported"
        )
    if environment.requires_group_rollouts:
        raise UserError(f"verifiers:{kind} rewards attempts by comparing them, which is not supported")
    return VerifiersTask(kind, environment, converses=not isinstance(environment, single))
