"""From names to objects: the tasks by name, the reward functions by ``FILE.py:FUNCTION``.

Every option either takes effect or is refused: nothing is accepted and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

from upslope.errors import UserError, nearest
from upslope.plugins import load_object
from upslope.tasks import gsm8k, user
from upslope.tasks.base import Task
from upslope.tasks.rewards import RewardFunction, Rewards, unwrapped

OPTIONS: Mapping[str, tuple[str, ...]] = {"gsm8k": ("keep_annotations",), "pocket": (), "user": ()}
"""The tasks and the options that each of them knows (all are true or false)."""


def open_task(
    name: str | None,
    *,
    data: str | None = None,
    eval_data: str | None = None,
    rewards: Sequence[str | RewardFunction] = (),
    reward_weights: Sequence[float] = (),
    seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> Task:
    """The task of that name; without a name it is ``user`` where ``data`` and ``rewards`` are given.

    ``seed`` makes the problems of a generated task. Files are never divided by it: the held-out rows of a file are the
    same in all runs.
    """
    if name is None:
        if not (data and rewards):
            raise UserError(f"no task: name one of {', '.join(sorted(OPTIONS))}, or give --data and --reward")
        name = "user"
    if name not in OPTIONS:
        raise UserError(f"there is no task {name!r}{nearest(name, OPTIONS)}")
    flags = _flags(name, options or {})
    if eval_data is not None and data is None:
        raise UserError("--eval-data needs --data, the rows to learn from")
    if name == "pocket":
        given = {"--data": data, "--reward": rewards, "--reward-weights": reward_weights}
        unused = [option for option, value in given.items() if value]
        if unused:
            raise UserError(f"task pocket makes its own problems and rewards and cannot use {unused[0]}; drop it")
        from upslope.tasks.pocket import open_pocket

        return open_pocket(seed)
    functions = load_rewards(rewards, reward_weights)
    if name == "gsm8k":
        return gsm8k.open(data, eval_data=eval_data, rewards=functions, **flags)
    return user.open(data, eval_data, functions)


def _flags(name: str, options: Mapping[str, object]) -> dict[str, bool]:
    flags = {}
    for key, value in options.items():
        if key not in OPTIONS[name]:
            hint = nearest(key, OPTIONS[name]) if OPTIONS[name] else "; it has none"
            raise UserError(f"task {name} has no option {key!r}{hint}")
        if not isinstance(value, bool):
            raise UserError(f"option {key!r} of task {name} must be true or false, not {value!r}")
        flags[key] = value
    return flags


def load_rewards(specs: Sequence[str | RewardFunction], weights: Sequence[float] = ()) -> Rewards:
    """Reward functions from ``FILE.py:NAME`` (or callables) and their weights, 1 each if none are given."""
    if weights and len(weights) != len(specs):
        raise UserError(f"{len(weights)} reward weights for {len(specs)} reward functions: give one for each, or none")
    if not all(math.isfinite(weight) for weight in weights):
        raise UserError(f"reward weights must be finite numbers, got {', '.join(map(str, weights))}")
    modules: dict[str, ModuleType] = {}
    functions: dict[str, RewardFunction] = {}
    for spec in specs:
        function = load_object(spec, "reward", modules) if isinstance(spec, str) else spec
        if not callable(function):
            raise UserError(f"reward {spec!r} is a {type(function).__name__}, not a function")
        plain = unwrapped(function)
        name = str(getattr(plain, "__name__", type(plain).__name__))
        if name in functions:
            raise UserError(f"two reward functions are called {name!r}: rename one, their values are reported by name")
        functions[name] = function
    return Rewards(functions, tuple(map(float, weights)) or (1.0,) * len(functions))
