"""From names to objects: the tasks by name, the reward functions by ``FILE.py:FUNCTION``.

Every option either takes effect or is refused: nothing is accepted and ignored.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from upslope.errors import UserError, nearest
from upslope.plugins import load_object, names_a_file, said
from upslope.tasks.base import Task
from upslope.tasks.builtin import FOR_DATA, TASKS, WORLDS
from upslope.tasks.elsewhere import Elsewhere, OnTimeout
from upslope.tasks.episode import ConversationLimits
from upslope.tasks.kind import TaskKind
from upslope.tasks.mixture import Mixed
from upslope.tasks.own import own_kind
from upslope.tasks.reward_calls import RewardFunction
from upslope.tasks.reward_names import names_apart
from upslope.tasks.rewards import NO_REWARDS, Rewards
from upslope.tasks.right import require_reward, rule_of, unmarked, with_right
from upslope.tasks.row_task import RowTask
from upslope.tasks.tools.with_tools import ToolFunction, ToolSettings, WithTools
from upslope.tasks.where import Where
from upslope.tasks.worded import Worded
from upslope.types import Form


def open_task(
    name: str | None,
    *,
    data: str | None = None,
    eval_data: str | None = None,
    columns: Mapping[str, str] | None = None,
    rewards: Sequence[str | RewardFunction] = (),
    reward_weights: Sequence[float] = (),
    seed: int = 0,
    options: Mapping[str, object] | None = None,
    template: Form = "auto",
    chat_template_kwargs: Mapping[str, Any] | None = None,
    keep_special: bool = False,
    where: str = "",
    reward_workers: int = 0,
    reward_timeout: float = 0.0,
    on_timeout: OnTimeout = "stop",
    tools: Sequence[str | ToolFunction] = (),
    environment: str | Callable[[], Any] = "",
    max_turns: int = 0,
    max_seconds: float = 0.0,
    tool_seconds: float = 0.0,
    also: Sequence[str] = (),
    weights: Sequence[float] = (),
    right: float | None = None,
    whole: bool = False,
) -> Task:
    """The task of that name, or the user's own by ``FILE.py:NAME``; without a name the user's ``data`` and ``rewards``.

    ``columns`` names the file's own column for each field that is called otherwise there. ``seed`` makes the problems
    of a generated task. ``template``, ``chat_template_kwargs`` and ``keep_special`` say how a model reads the prompts,
    and rewards the attempts (``TaskSettings``). ``where`` is a condition on the columns of the training problems. Files
    are never divided by the seed: the held-out rows of a file are the same in all runs. ``reward_workers`` processes
    score; with ``reward_timeout`` (seconds an attempt) there is at least one, and ``on_timeout`` says what becomes of
    an attempt whose check takes longer. Task and rewards are then opened in each of them, so they have to be named, not
    handed in.

    With ``tools`` (functions, FILE.py:NAME) or an ``environment`` (a class, FILE.py:CLASS) attempts are conversations
    of at most ``max_turns`` and ``max_seconds``, each call of at most ``tool_seconds``; 0: no limit. Reward functions
    then see them whole, and are called in this process.

    ``also`` are further files or folders whose demonstrations are mixed in, read as ``data`` is, with ``weights`` for
    ``data`` and each of them (none: by size). ``right`` is the reward from which on an attempt counts as right
    (``upslope.tasks.right``). ``whole``: nothing is learnt, so all rows of a file that is not divided are held out.

    Raises UserError for an unknown name, for anything given that the task cannot use, and for what the task refuses.
    """
    if name is None:
        if not (data and rewards):
            raise UserError(f"no task: name one of {', '.join(sorted(TASKS))}, or give --data and --reward")
        name = FOR_DATA
    modules: dict[str, ModuleType] = {}  # a file may hold the task and its rewards
    kind = own_kind(name, modules) if names_a_file(name) else _known_kind(name)
    if eval_data is not None and data is None:
        raise UserError("--eval-data needs --data, the rows to learn from")
    given: dict[str, object] = {"data": data, "eval_data": eval_data, "columns": dict(columns or {}), "seed": seed}
    kind.check(name, options or {}, given | {"rewards": rewards, "reward_weights": reward_weights})
    loaded = load_rewards(rewards, reward_weights, modules) if "rewards" in kind.takes else NO_REWARDS
    given["rewards"] = loaded
    limits = ConversationLimits(max_turns, 0, max_seconds)
    task: Task = kind.factory(**{key: (given | {"limits": limits})[key] for key in kind.takes}, **(options or {}))
    if whole and isinstance(task, RowTask):
        task.undivided = "test"
    equipped = ToolSettings(tools, environment, limits, tool_seconds)
    if equipped and rewards and (reward_workers or reward_timeout):
        raise UserError(
            "with task.tools or task.environment reward functions see whole conversations, in this process; leave "
            "task.reward_workers and task.reward_timeout out"
        )
    if reward_workers or reward_timeout:
        spec = {**given, "name": name, "rewards": _named(rewards), "reward_weights": reward_weights, "options": options}
        task = Elsewhere(task, spec, max(1, reward_workers), reward_timeout, on_timeout)
    task = with_right(task, loaded, right)
    if template != "auto" or chat_template_kwargs or keep_special:
        task = Worded(task, template, chat_template_kwargs or {}, keep_special=keep_special)
    task = Where(task, where) if where else task
    if equipped:
        task = WithTools(task, equipped, loaded, modules, rule_of(loaded, right))
    require_reward(task, right)
    if not also:
        return task
    if data is None:
        raise UserError("task.also is mixed into task.data; give --data as well")
    common: dict[str, Any] = {"columns": columns, "seed": seed, "options": options, "where": where}
    common |= {"tools": tools, "environment": environment}
    common |= {"template": template, "chat_template_kwargs": chat_template_kwargs}
    return Mixed(task, [(other, open_task(name, data=other, **common)) for other in also], weights)


def _known_kind(name: str) -> TaskKind:
    world, colon, within = name.partition(":")
    if name in TASKS:
        return TASKS[name]
    if colon and within and world in WORLDS:
        return WORLDS[world](within)
    known = [*TASKS, *(f"{world}:NAME" for world in WORLDS)]
    raise UserError(f"there is no task {name!r}{nearest(name, known)}, or FILE.py:NAME for your own")


def _named(rewards: Sequence[str | RewardFunction]) -> list[str]:
    """Raises UserError for one that was handed in: another process cannot be given it."""
    objects = [spec for spec in rewards if not isinstance(spec, str)]
    if objects:
        raise UserError(
            f"task.reward_workers and task.reward_timeout need rewards that are named, FILE.py:FUNCTION; put "
            f"{said(getattr(objects[0], '__name__', objects[0]), str)} into a file"
        )
    return [str(spec) for spec in rewards]


def load_rewards(
    specs: Sequence[str | RewardFunction],
    weights: Sequence[float] = (),
    modules: dict[str, ModuleType] | None = None,
) -> Rewards:
    """Reward functions from ``FILE.py:NAME`` (or callables) and their weights, 1 each if none are given. ``=right``
    behind a name marks one that decides.

    ``modules`` keeps files already imported.
    """
    if weights and len(weights) != len(specs):
        raise UserError(f"{len(weights)} reward weights for {len(specs)} reward functions: give one for each, or none")
    if not all(math.isfinite(weight) for weight in weights):
        raise UserError(f"reward weights must be finite numbers, got {', '.join(map(str, weights))}")
    modules = {} if modules is None else modules
    functions: list[RewardFunction] = []
    deciding: list[bool] = []
    given: list[str | RewardFunction] = []
    for spec in specs:
        plain_spec, decides = unmarked(spec) if isinstance(spec, str) else (spec, False)
        function = load_object(plain_spec, "reward", modules) if isinstance(plain_spec, str) else plain_spec
        if not callable(function):
            raise UserError(f"reward {spec!r} is a {type(function).__name__}, not a function")
        if inspect.isclass(function):
            raise UserError(f"reward {said(spec)} is a class; give an object of it: my_reward = {function.__name__}()")
        functions.append(function)
        deciding.append(decides)
        given.append(plain_spec)
    names = names_apart(given, functions)
    named = dict(zip(names, functions, strict=True))
    decided_by = tuple(name for name, decides in zip(names, deciding, strict=True) if decides)
    return Rewards(named, tuple(map(float, weights)) or (1.0,) * len(named), decided_by)
