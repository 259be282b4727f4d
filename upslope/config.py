"""Configuration: a TOML run file, then ``key=value`` overrides, checked against the typed settings.

An unknown key is an error that names the nearest known one; a value of the wrong type says what it should be.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from upslope.errors import UserError, nearest
from upslope.plugins import names_a_file
from upslope.train.settings import DEFAULT_RECIPE, RunSettings

PATHS = (("model",), ("task", "data"), ("task", "eval_data"), ("task", "name"), ("recipe", "name"))
"""Keys that may hold a path; so may every entry of ``task.rewards``."""
_FROM_ZERO = (
    *(
        "steps",
        "minutes",
        "tokens",
        "threads",
        "sample.temperature",
        "learn.lr",
        "learn.warmup",
        "learn.beta1",
        "learn.beta2",
    ),
    *(
        "learn.eps",
        "learn.weight_decay",
        "learn.clip",
        "learn.micro_batch",
        "learn.lora_rank",
        "learn.lora_alpha",
        "learn.measure_every",
        "eval.every",
        "eval.problems",
    ),
    *("eval.samples", "eval.temperature", "save.every", "save.rollouts"),
)
LEAST: Mapping[str, int] = {"problems": 1, "save.keep": 1} | dict.fromkeys(_FROM_ZERO, 0)
"""The smallest value of a number; a smaller one (or NaN) would be taken for something else in silence."""


def load_settings(
    file: Path | None = None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> RunSettings:
    """The settings of a run: defaults, then the file, then ``options`` by dotted key, then ``KEY=VALUE`` strings.

    A relative path in the file is looked for beside the file first, then in the current folder. Naming a recipe starts
    from it afresh: patches of another one, from the file, do not survive.
    """
    table = read_toml(file) if file else {}
    table.pop("versions", None)  # a record of what the run of that file ran with
    if file:
        _anchor(table, file.parent)
    for key, value in (options or {}).items():
        _put(table, key, value)
    pairs = []
    for text in overrides:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise UserError(f"{text!r} is not of the form KEY=VALUE, for example learn.lr=1e-4")
        pairs.append(("recipe" if key == "recipe.name" else key, _value(value)))
    for key, value in sorted(pairs, key=lambda pair: pair[0] != "recipe"):
        _put(table, key, value)  # naming a recipe starts from it afresh, so that comes before any patch of it
    return to_settings(table)


def read_toml(file: Path) -> dict[str, Any]:
    """The file's table. Raises UserError naming the line."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"run file {file}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"run file {file} is not TOML: {error}") from None


def to_settings(table: Mapping[str, Any]) -> RunSettings:
    """Typed settings from a table. Raises UserError naming the key and the mend."""
    if not isinstance(table.get("recipe", {}), Mapping):  # recipe = "grpo" is short for a table with that name
        table = {**table, "recipe": {"name": table["recipe"]}}
    return typing.cast(RunSettings, _build(RunSettings, table, ""))


def _build(kind: type[Any], table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise UserError(f"{where.rstrip('.')} must be a table of keys, not {table!r}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise UserError(f"there is no setting {where}{key}{nearest(key, known)}")
        if is_dataclass(hints[key]):
            values[key] = _build(typing.cast(type[Any], hints[key]), value, f"{where}{key}.")
            continue
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{where}{key} = {value!r} should be {_spell(hints[key])}: {_why(error)}") from None
        if isinstance(value, bool) and hints[key] is not bool:  # pydantic would take true for 1
            raise UserError(f"{where}{key} = {str(value).lower()} should be {_spell(hints[key])}")
        least = LEAST.get(where + key)
        if least is not None and values[key] is not None and not values[key] >= least:
            raise UserError(f"{where}{key} = {value!r} must be at least {least}")
    if kind is RunSettings:
        values["recipe"] = {"name": DEFAULT_RECIPE} | values.get("recipe", {})
        if not isinstance(values["recipe"]["name"], str):
            raise UserError(f"recipe.name = {values['recipe']['name']!r} should be the name of a recipe")
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(f"{where.rstrip('.') or 'settings'}: {error}") from None


def _why(error: ValidationError) -> str:
    return error.errors()[0]["msg"]


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join("nothing" if a is type(None) else a.__name__ for a in typing.get_args(hint))
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.get(parent)
        if isinstance(inner, str):  # recipe.surrogate = "clipped_ratio" is short for a table with that kind
            inner = {"name" if parent == "recipe" else "kind": inner}
        table[parent] = dict(inner) if isinstance(inner, Mapping) else {}
        table = table[parent]
    table[last] = value


def _value(text: str) -> Any:
    """A TOML value; anything that is none is taken as a string."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def _anchor(table: dict[str, Any], folder: Path) -> None:
    for key in PATHS:
        inner: Any = table
        for parent in key[:-1]:
            inner = inner.get(parent, {})
        text = inner.get(key[-1]) if isinstance(inner, dict) else None
        # gpt2 is a model of the hub, gsm8k a task and grpo a recipe, whatever lies beside the run file under that name.
        local = isinstance(text, str) and (key != ("model",) or (folder / text).is_dir())
        if local and (key[-1] != "name" or names_a_file(str(text))):
            inner[key[-1]] = _beside(str(text), folder)
    task = table.get("task", {})
    if isinstance(task, dict) and isinstance(task.get("rewards"), list):
        task["rewards"] = [_beside(r, folder) if isinstance(r, str) else r for r in task["rewards"]]


def _beside(text: str, folder: Path) -> str:
    path, colon, name = text.partition(":")
    found = folder / path
    return f"{found}{colon}{name}" if path and found.exists() else text
