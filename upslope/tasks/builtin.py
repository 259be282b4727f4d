"""The tasks that upslope brings: another one is one more entry of ``TASKS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from upslope.tasks.base import Task
from upslope.tasks.kind import TaskKind


# A task's own module is loaded when it is asked for.
def _code(**given: Any) -> Task:
    from upslope.tasks import code_task

    return code_task.open(**given)


def _gsm8k(**given: Any) -> Task:
    from upslope.tasks import grade_school

    return grade_school.open(**given)


def _math(**given: Any) -> Task:
    from upslope.tasks import mathematics

    return mathematics.open(**given)


def _pocket(seed: int) -> Task:
    from upslope.tasks.pocket_problems import open_pocket

    return open_pocket(seed)


def _gym(kind: str) -> TaskKind:
    def made(**given: Any) -> Task:
        from upslope.tasks import gym_task

        return gym_task.open(kind, **given)

    return TaskKind(made, "", frozenset({"seed"}), any_option=True)  # its options are the data set's own too


def _openenv(kind: str) -> TaskKind:
    def made(**given: Any) -> Task:
        from upslope.tasks import openenv_task

        return openenv_task.open(kind, **given)

    options = {"action": str, "observation": str, "reward": str, "size": int, "seconds": float, "on_error": str}
    return TaskKind(made, "", frozenset({"data", "eval_data", "columns", "seed", "limits"}), options)


def _user(**given: Any) -> Task:
    from upslope.tasks import user

    return user.open(**given)


def _verifiers(kind: str) -> TaskKind:
    def made(**given: Any) -> Task:
        from upslope.tasks import verifiers_task

        return verifiers_task.open(kind, **given)

    return TaskKind(made, "", any_option=True)  # they are the environment's own


_OF_FILES = frozenset({"data", "eval_data", "rewards", "columns"})

TASKS: Mapping[str, TaskKind] = {
    "code": TaskKind(
        _code,
        "your --data: programs, rewarded by their tests",
        frozenset({"data", "eval_data", "columns"}),
        {"partial": bool, "seconds": int, "memory_mb": int, "instruction": str, "trust_tests": bool},
    ),
    "gsm8k": TaskKind(_gsm8k, "grade-school word problems", _OF_FILES, {"keep_annotations": bool, "calculator": bool}),
    "math": TaskKind(_math, "answers in \\boxed{}, such as MATH", _OF_FILES, {"seconds": float}),
    "pocket": TaskKind(_pocket, "generated ones for the built-in model", frozenset({"seed"})),
    "user": TaskKind(_user, "your --data and --reward", _OF_FILES),
}
"""Every task by its name."""
WORLDS: Mapping[str, Callable[[str], TaskKind]] = {
    "reasoning-gym": _gym,
    "verifiers": _verifiers,
    "openenv": _openenv,
}
"""Libraries of tasks by the word before the colon: ``reasoning-gym:NAME``."""
FOR_DATA = "user"
"""Which one is meant where data is given and no task named."""
DEFAULT = "pocket"
"""Which one is trained on where nothing is given at all."""


def tasks_help() -> str:
    """All names with their lines, for the command line."""
    known = [f"{name} ({kind.help})" for name, kind in TASKS.items()]
    return f"{', '.join(known)}, reasoning-gym:NAME, verifiers:NAME, openenv:URL, or your own: FILE.py:NAME."
