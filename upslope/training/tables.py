"""Typed settings from a table of plain values, as files, command lines and Python callers give them."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from upslope.bounds import BelowBound
from upslope.errors import UserError, nearest
from upslope.model.names import is_new
from upslope.tasks.problem_set import half_character
from upslope.training.settings import DEFAULT_RECIPE, RunSettings

LONGEST_NAME = 4096
"""Characters of a path, a name, or FILE.py:NAME."""


def to_settings(table: Mapping[str, Any]) -> RunSettings:
    """Typed settings from a table. Raises UserError naming the key and the mend."""
    if not isinstance(table.get("recipe", {}), Mapping):  # recipe = "grpo" is short for a table with that name
        table = {**table, "recipe": {"name": table["recipe"]}}
    settings = typing.cast(RunSettings, _build(RunSettings, table, ""))
    if settings.epochs and "steps" in table:
        raise UserError(
            f"steps = {settings.steps} and epochs = {settings.epochs:g} are both the length of the run; give one of "
            "them"
        )
    return settings


def replaced(below: Mapping[str, Any], above: Mapping[str, Any]) -> set[str]:
    """The keys of settings that others, which hold over them, stand in the place of: one length of a run for the other,
    and a model for the shape of a new one.

    >>> sorted(replaced({"steps": 3, "model": "new:llama", "new": {"depth": 2}}, {"epochs": 1, "model": "a"}))
    ['new', 'steps']
    """
    lengths = {"steps", "epochs"}
    given = lengths & above.keys()
    gone = lengths - given if len(given) == 1 else set()
    model = above.get("model")
    if isinstance(model, str) and not is_new(model) and is_new(str(below.get("model", ""))):
        gone.add("new")
    return gone & below.keys()


def task_options(
    name: str | None,
    data: str | None,
    eval_data: str | None,
    rewards: Sequence[str] | None,
    reward_weights: Sequence[float] | None,
    text: Sequence[str] | None = None,
    tools: Sequence[str] | None = None,
    environment: str | None = None,
) -> dict[str, Any]:
    """What the task is, by dotted key of the settings, without what was not given. Raises UserError for an option that
    was given empty, as by a variable of the shell that is not set: nothing may take another task's place in silence."""
    require_filled({"--task": name, "--data": data, "--eval-data": eval_data, "--text": all(text or ["-"]) or ""})
    require_filled({"--tools": all(tools or ["-"]) or "", "--environment": environment})
    given = {
        "task.name": name,
        "task.data": data,
        "task.eval_data": eval_data,
        "task.rewards": list(rewards or ()) or None,
        "task.reward_weights": list(reward_weights or ()) or None,
        "task.text": list(text or ()) or None,
        "task.tools": list(tools or ()) or None,
        "task.environment": environment,
    }
    return {key: value for key, value in given.items() if value is not None}


def require_filled(options: Mapping[str, object]) -> None:
    """Raise UserError for an option that was given empty."""
    empty = [option for option, value in options.items() if value == ""]
    if empty:
        raise UserError(f"{empty[0]} is empty; give a value, or leave the option out")


def _build(kind: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise UserError(f"{where.rstrip('.')} must be a table of keys, not {table!r}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"there is no setting {where}{key}{_meant(key, kind)}")
        if is_dataclass(hints[key]):
            values[key] = _build(typing.cast(type[Any], hints[key]), value, f"{where}{key}.")
            continue
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            if typing.get_origin(hints[key]) is tuple and isinstance(value, str | int | float):
                raise UserError(f"{where}{key} = {value!r} should be a list: [{json.dumps(value)}]") from None
            raise UserError(f"{where}{key} = {value!r} should be {_spell(hints[key])}: {_why(error)}") from None
        if key not in ("options", "where"):
            _require_text(values[key], f"{where}{key}")
        if isinstance(value, bool) and not _takes_bool(hints[key]):  # pydantic would take true for 1
            raise UserError(f"{where}{key} = {str(value).lower()} should be {_spell(hints[key])}")
    if kind is RunSettings:
        values["recipe"] = {"name": DEFAULT_RECIPE} | values.get("recipe", {})
        if not isinstance(values["recipe"]["name"], str):
            raise UserError(f"recipe.name = {values['recipe']['name']!r} should be the name of a recipe")
    try:
        return kind(**values)
    except BelowBound as error:
        raise UserError(f"{where}{error}") from None
    except ValueError as error:
        raise UserError(f"{where.rstrip('.') or 'settings'}: {error}") from None


def _require_text(value: Any, where: str) -> None:
    """Raise UserError for text that is no name of anything: endless, with NUL, or with bytes that are no UTF-8."""
    inside = value if isinstance(value, tuple) else [*value, *value.values()] if isinstance(value, dict) else [value]
    for text in inside:
        if isinstance(text, str) and ("\0" in text or half_character(text)):
            raise UserError(f"{where} = {text!a:.60} holds NUL, or bytes that are no UTF-8; give plain text")
        if isinstance(text, str) and len(text) > LONGEST_NAME:
            raise UserError(f"{where} = {text!a:.60}... has {len(text):,} characters, and no name has so many")


def _meant(key: str, kind: type[Any]) -> str:
    """The setting that was meant: one of a group, by its dotted key, else the nearest of these."""
    hints = typing.get_type_hints(kind)
    groups = [f.name for f in fields(kind) if is_dataclass(hints[f.name])]
    inside = [g for g in groups if key in {f.name for f in fields(typing.cast(Any, hints[g]))}]
    if inside:
        return "; did you mean " + " or ".join(f"{g}.{key} (in Python {g}={{'{key}': ...}})" for g in inside) + "?"
    return nearest(key, [f.name for f in fields(kind)])


def _takes_bool(hint: Any) -> bool:
    return hint is bool or bool in typing.get_args(hint)


def _why(error: ValidationError) -> str:
    return error.errors()[0]["msg"]


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join("nothing" if a is type(None) else a.__name__ for a in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)


def names(settings: Iterable[str], key: str) -> bool:
    """Whether a dotted key is one of these settings, or stands in one of these tables.

    >>> names(("save", "learn.lr"), "save.every"), names(("save", "learn.lr"), "learn")
    (True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in settings)


def dotted(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a table of tables with its dotted key.

    >>> list(dotted({"steps": 3, "learn": {"lr": 1.0}}))
    [('steps', 3), ('learn.lr', 1.0)]
    """
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
