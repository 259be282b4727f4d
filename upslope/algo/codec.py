"""Recipes as plain dictionaries, for run files, checkpoints and the command line.

A slot's value is written as its ``kind`` (the function's name, or the class's in snake case) and its fields; a
patch may give the kind alone as a string, or only fields of the value that is there.

>>> from upslope.algo.recipe import Recipe
>>> to_dict(Recipe())["sample"]
{'kind': 'attempts', 'group_size': 8, 'keep': 'everything', 'refill': 0.0, 'drop_truncated': False}
>>> patched(Recipe(), {"sample": {"group_size": 4}, "advantage": "group_mean"}).sample.group_size
4
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from inspect import isfunction
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from upslope.algo import advantage, aggregate, correction, critic, regulariser, reuse, sample, shape, surrogate, update
from upslope.algo.recipe import Recipe
from upslope.errors import UserError, nearest

HELPERS = {
    *("spread", "sum_by_group", "size_by_group", "centred", "largest", "whitened", "lengths", "require_range"),
    *("log_ratio_to_old", "pessimistic", "silenced", "one_ratio"),
    *("estimate_k1", "estimate_k2", "estimate_k3", "disagreement", "value_error", "Sampled", "Critic"),
}
"""What the slots' modules define besides values of the slot."""
KEEPS = {"everything": sample.everything, "rewarded": sample.rewarded, "mixed": sample.mixed}


def kinds(module: ModuleType, *, hidden: set[str] = HELPERS | set(KEEPS)) -> dict[str, Any]:
    """Every value a slot can take from its module: functions and frozen dataclasses, by kind."""
    own = {
        n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__ and n not in hidden
    }
    found = {n: v for n, v in own.items() if isfunction(v) and not n.startswith("_")}
    return found | {snake(n): v for n, v in own.items() if isinstance(v, type) and is_dataclass(v)}


def snake(name: str) -> str:
    """``GroupZScore`` to ``group_z_score``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


SLOTS: dict[str, dict[str, Any]] = {
    "sample": kinds(sample),
    "shape": kinds(shape),
    "advantage": kinds(advantage),
    "surrogate": kinds(surrogate),
    "critic": kinds(critic),
    "regulariser": kinds(regulariser),
    "aggregate": kinds(aggregate),
    "update": kinds(update),
    "reuse": kinds(reuse),
    "correction": kinds(correction),
}


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every slot as ``{"kind": ..., field: value, ...}``. Raises ValueError for a value from outside the package."""
    return {slot: _value_to_dict(slot, getattr(recipe, slot)) for slot in SLOTS}


def _value_to_dict(slot: str, value: Any) -> dict[str, Any]:
    for kind, known in SLOTS[slot].items():
        if value is known:
            return {"kind": kind}
        if isinstance(known, type) and isinstance(value, known):
            inside = {f.name: getattr(value, f.name) for f in fields(known)}
            return {"kind": kind} | {n: v.__name__ if callable(v) else v for n, v in inside.items()}
    raise ValueError(f"recipe.{slot} holds {value!r}, which has no name to be written under")


def patched(recipe: Recipe, patch: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe with the patch's slots and fields replaced. Raises UserError naming the key and the nearest known."""
    for slot, change in patch.items():
        if slot not in SLOTS:
            raise UserError(f"{where}.{slot} is not a slot of a recipe{nearest(slot, SLOTS)}")
        recipe = recipe.patch(**{slot: _patched_value(getattr(recipe, slot), slot, change, f"{where}.{slot}")})
    return recipe


def _patched_value(current: Any, slot: str, change: Any, where: str) -> Any:
    change = {"kind": change} if isinstance(change, str) else change
    if not isinstance(change, Mapping):
        raise UserError(f"{where} is {change!r}; give the name of a kind, or a table of fields")
    inside = dict(change)
    kind = inside.pop("kind", None)
    if kind is not None:
        if not isinstance(kind, str) or kind not in SLOTS[slot]:
            raise UserError(f"{where} = {kind!r} is not known{nearest(str(kind), SLOTS[slot])}")
        chosen = SLOTS[slot][kind]
        if not isinstance(chosen, type):
            current = chosen
        elif not isinstance(current, chosen):
            current = chosen()
    if not inside:
        return current
    if not is_dataclass(current) or isinstance(current, type):
        name = getattr(current, "__name__", current)
        raise UserError(f"{where}.{next(iter(inside))}: {name} has no fields; set {where}.kind as well")
    return _with_fields(current, inside, where)


def _with_fields(current: Any, inside: Mapping[str, Any], where: str) -> Any:
    hints = get_type_hints(type(current))
    known = [f.name for f in fields(current)]
    values: dict[str, Any] = {}
    for name, value in inside.items():
        if name not in known:
            raise UserError(f"{where}.{name} is not a field of {type(current).__name__}{nearest(name, known)}")
        hint = hints[name]
        if hint == sample.Keep:
            if not isinstance(value, str) or value not in KEEPS:
                raise UserError(f"{where}.{name} = {value!r} is not known{nearest(str(value), KEEPS)}")
            values[name] = KEEPS[value]
            continue
        if isinstance(value, bool) is not (hint is bool):  # pydantic would take true for 1, and 1 for true
            wanted = "true or false" if hint is bool else "a number" if hint in (int, float) else "a word"
            raise UserError(f"{where}.{name} = {str(value).lower()} should be {wanted}")
        try:
            values[name] = TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{where}.{name} = {value!r}: {error.errors()[0]['msg']}") from None
    try:
        return replace(current, **values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
