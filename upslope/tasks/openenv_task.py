"""Task ``openenv:URL``: an environment behind a server of OpenEnv, whose episodes are conversations.

Problems are rows of ``--data`` (``prompt``, and perhaps ``reset``: keywords of the environment's reset), or, without
data, resets with different seeds, whose first observations are the prompts. The reward is the environment's own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, get_args
from urllib.parse import urlsplit

from upslope.errors import UserError, nearest
from upslope.plugins import said
from upslope.tasks.base import Split
from upslope.tasks.columns import Columns
from upslope.tasks.episode import ConversationLimits, Episode
from upslope.tasks.files import Files, find_files
from upslope.tasks.openenv_client import OpenEnvSession, ServerSaysNo, client_class, schemas_of
from upslope.tasks.openenv_world import OpenEnvRules, OpenEnvWorld, RewardRule
from upslope.tasks.problem_set import Row, held_out
from upslope.tasks.rewards import NO_REWARDS
from upslope.tasks.row_task import RowTask
from upslope.tasks.tools.toolbox import Tool, called_elsewhere
from upslope.tasks.user import problem_of
from upslope.types import Problem, Score

SIZE = 1000
"""Seeds, where there is no data."""
SEEDS_APART = 10**6
"""Problem i of seed s is the reset with seed 10^6 s + i."""
SECONDS = 60.0
"""What the server may take for an answer."""
FRAME = ("metadata", "reward", "done")
"""Fields of every action or observation, which are none of the environment's own."""


class OpenEnvTask(RowTask):
    """One environment; see ``open``."""

    name = "openenv"
    reads_answers = False
    fields = (
        ("prompt", "messages"),
        ("reset",),
        ("truth",),
        ("answer",),
        ("id",),
        ("split",),
        ("chat_template_kwargs",),
    )

    def __init__(
        self,
        url: str,
        rules: OpenEnvRules,
        seconds: float,
        limits: ConversationLimits,
        seeds: range,
        files: Files,
        columns: Columns,
    ) -> None:
        super().__init__(files, NO_REWARDS, columns)
        self._url, self._rules, self._seconds, self._limits, self._seeds = url, rules, seconds, limits, seeds

    def build(self, row: Mapping[str, Any], where: str) -> Problem:
        problem = problem_of(row, where)
        problem = dataclasses.replace(problem, columns={**problem.columns, "reset": reset_of(row.get("reset"), where)})
        if not self._rules.tools:
            return problem
        if problem.template.get("tools"):
            raise UserError(f"{where}: its row has tools, and so has {self._url}; drop the row's")
        return dataclasses.replace(problem, template={**problem.template, "tools": list(self._rules.tools)})

    def without_files(self) -> Iterator[Row]:
        for place, seed in enumerate(self._seeds):
            told = f"The first observation with seed {seed}"  # which stands here until the environment says it
            side: Split = "test" if held_out(({"role": "user", "content": told},)) else "train"
            row = {"prompt": told, "reset": {"seed": seed}}
            yield Row(f"openenv:{self._url}", place + 1, row, side, place)

    def build_to_score(self, row: Mapping[str, Any], where: str) -> Problem | None:
        if not self._files or (row.get("prompt") is None and row.get("messages") is None):
            return None
        return dataclasses.replace(self.build(row, where), id=where)

    def check_rewards(self) -> None:
        return

    def check_columns(self) -> None:
        return

    def episode(self, problem: Problem) -> Episode:
        session = OpenEnvSession(self._url, self._seconds)
        where = f"problem {self.place(problem) if self._files else problem.id}"
        reset = problem.columns["reset"]
        return OpenEnvWorld(session, self._rules, self._limits, reset, where, asked=bool(self._files))

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """Of attempts of one turn each."""
        return [self._first_turn(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def _first_turn(self, problem: Problem, response: str) -> Score:
        world = self.episode(problem)
        world.opening(problem.messages)
        world.reply(response)
        found = world.score(())
        assert found is not None, "it judges all of them"
        return found


def reset_of(cell: Any, where: str) -> Mapping[str, Any]:
    """Keywords of a reset in a row, which may be written as JSON. Raises UserError that begins with ``where``.

    >>> reset_of('{"seed": 3}', "row 1"), reset_of({"seed": 4, "level": None}, "row 1"), reset_of(None, "row 1")
    ({'seed': 3}, {'seed': 4}, {})
    """
    found = cell
    if isinstance(cell, str):
        try:
            found = json.loads(cell) if cell.strip() else None
        except ValueError:
            found = cell
    if found is not None and not isinstance(found, Mapping):
        raise UserError(f"{where}: reset must be an object of keywords, {{'seed': 3}}, not {cell!r:.60}")
    return {str(key): value for key, value in (found or {}).items() if value is not None}


def open(
    url: str,
    /,
    seed: int,
    data: str | None = None,
    eval_data: str | None = None,
    columns: Columns = MappingProxyType({}),
    limits: ConversationLimits | None = None,
    *,
    action: str | None = None,
    observation: str | None = None,
    reward: RewardRule = "sum",
    size: int | None = None,
    seconds: float = SECONDS,
    on_error: str = "stop",
) -> OpenEnvTask:
    """The task of the server at ``url``, which is asked what its actions are. Raises UserError where the library is not
    there, for a server that is away or none of OpenEnv's, and for an option that it cannot do."""
    where = f"of task openenv:{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise UserError(f"task openenv:{url} needs the server's address, as openenv:http://127.0.0.1:8000")
    for name, value, known in (("reward", reward, get_args(RewardRule)), ("on_error", on_error, ("stop", "tell"))):
        if value not in known:
            raise UserError(f"option {name!r} {where}: {value!r}{nearest(value, known)}")
    if not 0 < seconds <= 86_400:
        raise UserError(f"option 'seconds' {where} must be above 0 and at most a day (86400), not {seconds:g}")
    if size is not None and data is not None:
        raise UserError(f"option 'size' {where} is how many seeds there are; with --data leave it out")
    num = SIZE if size is None else size
    if not 1 <= num <= SEEDS_APART:
        raise UserError(f"option 'size' {where} must be a whole number from 1 to {SEEDS_APART}, not {num}")
    try:
        client_class()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"task openenv:{url} needs openenv-core ({said(error, str)}): pip install openenv-core"
        ) from None
    url = url.rstrip("/")
    schemas = schemas_of(url, seconds) or {}
    tools = tools_lent(url, seconds) if _may_lend(schemas.get("action")) else []
    if tools and action is not None:
        raise UserError(f"option 'action' {where}: it lends tools ({tools[0].name}, ...), and actions are their calls")
    field = "" if tools else action_field(schemas.get("action"), action, where)
    seen = _own_fields(schemas.get("observation"))
    if observation is not None and seen and observation not in seen:
        raise UserError(f"option 'observation' {where}: there is no field {observation!r}{nearest(observation, seen)}")
    if observation is None and len(seen) == 1 and _is_text(next(iter(seen.values()))):
        observation = next(iter(seen))
    rules = OpenEnvRules(field, observation, reward, "tell" if on_error == "tell" else "stop", tools)
    files = find_files(data, eval_data) if data is not None else ()
    first = SEEDS_APART * seed
    return OpenEnvTask(url, rules, seconds, limits or ConversationLimits(), range(first, first + num), files, columns)


def action_field(schema: Mapping[str, Any] | None, wanted: str | None, where: str) -> str:
    """The field of an action that a text goes to. Raises UserError where it is not clear which, where there is none,
    and where an action needs more than that."""
    fields = _own_fields(schema)
    if schema is None or (not fields and wanted is None):
        return wanted or "message"
    texts = [name for name, told in fields.items() if _is_text(told)]
    if wanted is not None and wanted not in fields and schema.get("additionalProperties") is False:
        raise UserError(f"option 'action' {where}: its actions have no field {wanted!r}{nearest(wanted, fields)}")
    if wanted is None and len(texts) > 1 and "message" not in texts:
        raise UserError(
            f"the actions {where} have several texts ({', '.join(texts)}); say which: task.options.action=NAME"
        )
    if wanted is None and not texts:
        raise UserError(f"the actions {where} have no text (they have {', '.join(fields)}); a turn cannot be one")
    field = wanted or ("message" if "message" in texts else texts[0])
    more = [name for name in schema.get("required", ()) if name != field]
    if more:
        raise UserError(f"the actions {where} need {more[0]!r} besides {field!r}; a turn is one text")
    return field


def _may_lend(schema: Mapping[str, Any] | None) -> bool:
    """Whether a server may have tools: only one without actions of its own hands calls on to them."""
    fields = _own_fields(schema)
    return not fields or "tool_name" in fields


def _own_fields(schema: Any) -> dict[str, Any]:
    found = schema.get("properties") if isinstance(schema, Mapping) else None
    return {name: told for name, told in (found or {}).items() if name not in FRAME}


def _is_text(told: Any) -> bool:
    """Whether a field of a schema is a text, or a text or nothing."""
    kinds = told.get("anyOf", [told]) if isinstance(told, Mapping) else []
    named = {kind.get("type") for kind in kinds if isinstance(kind, Mapping) and "const" not in kind}
    return "string" in named and named <= {"string", "null"}


def tools_lent(url: str, seconds: float) -> list[Tool]:
    """The tools of the server, which a session of its own is asked for. Raises UserError."""
    session = OpenEnvSession(url, seconds)
    try:
        session.begin()
        given = session.step({"type": "list_tools"}).observation.get("tools") or []
    except ServerSaysNo:
        return []
    finally:
        session.close()
    tools = []
    for each in given:
        name = each.get("name") if isinstance(each, Mapping) else None
        if not isinstance(name, str):
            raise UserError(f"{url} lends a tool without a name: {each!r:.60}")
        parameters = each.get("input_schema") or each.get("inputSchema") or {"type": "object", "properties": {}}
        function = {"name": name, "description": each.get("description") or "", "parameters": parameters}
        tools.append(Tool(name, called_elsewhere, {"type": "function", "function": function}))
    return tools
