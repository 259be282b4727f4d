"""Tasks of the user's own, by ``FILE.py:NAME``.

NAME is an object with ``problems`` and ``score``, a class of such, or a function that makes one. Class and function are
called with keywords: the task's options, and ``seed``, ``data``, ``eval_data``, ``rewards`` (a ``Rewards``) and
``columns`` where they have a parameter of that name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, file_of, load_object, unless_interrupted
from upslope.plugins.world import world_of
from upslope.tasks.base import Task
from upslope.tasks.complete import NEEDED, Completed, missing
from upslope.tasks.kind import TaskKind

TAKEN = frozenset({"data", "eval_data", "rewards", "columns", "seed"})
"""Parameters that are no options."""


def own_kind(spec: str, modules: dict[str, ModuleType]) -> TaskKind:
    """What ``FILE.py:NAME`` is. Raises UserError if it is no task and nothing that could make one."""
    found = load_object(spec, "task", modules)
    if inspect.isclass(found):
        lacks = missing(found)
        if lacks:
            raise UserError(f"task {spec}: {found.__name__} has no {lacks}")
    elif not missing(found):
        return TaskKind(lambda: Completed(found, spec), "")
    elif not callable(found):
        lacks = missing(found)
        raise UserError(f"task {spec} is a {type(found).__name__}, and has no {lacks}")
    return _made_by(found, spec)


def _made_by(factory: Callable[..., Any], spec: str) -> TaskKind:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise UserError(f"task {spec}: its parameters cannot be read ({error}); wrap it in a function") from error
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = [p.name for p in named.values() if p.default is p.empty and p.name not in TAKEN]
    return TaskKind(
        functools.partial(_make, factory, spec, needed),
        "",
        TAKEN & named.keys(),
        dict.fromkeys(named.keys() - TAKEN),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _make(factory: Callable[..., Any], spec: str, needed: list[str], **arguments: Any) -> Task:
    lacks = next((name for name in needed if name not in arguments), None)
    if lacks is not None:
        raise UserError(f"task {spec} needs its option {lacks!r}: give task.options.{lacks}=VALUE")
    try:
        with world_of(getattr(factory, "__module__", None)).inside():
            made = factory(**arguments)
    except UserError:
        raise
    except BaseException as error:
        unless_interrupted(error)
        raise UserError(f"task {spec} cannot be made: {describe(error, file_of(inspect.unwrap(factory)))}") from error
    if made is None:
        raise UserError(f"task {spec} returned nothing; return an object with {' and '.join(NEEDED.values())}")
    return Completed(made, spec)
