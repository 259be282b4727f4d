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

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from upslope.algo import learnable, sample, turn_advantage
from upslope.algo.recipe import Recipe
from upslope.algo.slots import KINDS
from upslope.errors import UserError, nearest
from upslope.plugins import load_object, names_a_file

KEEPS = {"everything": sample.everything, "rewarded": sample.rewarded, "mixed": sample.mixed}
"""What ``sample.keep`` can be, by name."""
SLOTS = KINDS
"""Every value that a slot can take by name: here all modules that register some are loaded."""
ALSO = (learnable, turn_advantage)
"""Those that the family uses nothing of."""
HERE = Path(__file__).resolve().parents[1]
_OPENED: dict[str, ModuleType] = {}
"""Files of users that are imported already, so that a slot's class is one class."""


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every slot as ``{"kind": ..., field: value, ...}``; a user's own as ``FILE.py:NAME``.

    Raises ValueError for a value that neither the package nor a file has under a name.
    """
    return {slot: _value_to_dict(slot, getattr(recipe, slot)) for slot in SLOTS}


def _value_to_dict(slot: str, value: Any) -> dict[str, Any]:
    names_itself = callable(value) and hasattr(value, "__name__")
    made_by_name = is_dataclass(value) or _stateless(value)
    kind = _name_of(value) if names_itself else _name_of(type(value)) if made_by_name else None
    inside = {f.name: getattr(value, f.name) for f in fields(value)} if is_dataclass(value) else {}
    written = {name: _name_of(v) if callable(v) else v for name, v in inside.items()}
    if kind is None or any(callable(v) and written[name] is None for name, v in inside.items()):
        raise ValueError(f"recipe.{slot} holds {value!r}, which has no name to be written under")
    return {"kind": kind} | written


def _stateless(value: Any) -> bool:
    """Whether calling its class without anything makes the same again."""
    made: Any = type(value)
    return made.__init__ is object.__init__ and made.__new__ is object.__new__ and not getattr(value, "__dict__", None)


def _name_of(value: Any) -> str | None:
    """The kind's name of the package's own functions and classes, FILE.py:NAME of a user's, None of any others."""
    module, name = sys.modules.get(value.__module__), value.__name__
    if module is None or getattr(module, name, None) is not value or not getattr(module, "__file__", None):
        return None
    file = Path(str(module.__file__)).resolve()
    if file.is_relative_to(HERE):
        known = [kind for kinds in (*SLOTS.values(), KEEPS) for kind, k in kinds.items() if k is value]
        return known[0] if known else None
    return f"{file}:{name}"


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
    inside, kept = dict(change), {}
    kind = inside.pop("kind", None)
    if kind is not None:
        chosen = _chosen(kind, SLOTS[slot], where)
        if not isinstance(chosen, type) or type(current) is not chosen:  # of a subclass of it, another is made
            kept = _in_common(current, chosen)
            current = chosen
    made = current if isinstance(current, type) else type(current)
    if inside and not is_dataclass(made):
        name = getattr(current, "__name__", current)
        raise UserError(f"{where}.{next(iter(inside))}: {name} has no fields; set {where}.kind as well")
    values = _values(made, inside, where)
    try:
        return (
            current(**(kept | values))
            if isinstance(current, type)
            else replace(current, **values)
            if values
            else current
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _in_common(current: Any, chosen: Any) -> dict[str, Any]:
    """The fields of a value that another kind has because one of the two is a sort of the other, as ``learnable`` is
    of ``attempts``: a recipe's own group size is its own however its problems are drawn."""
    if not (is_dataclass(current) and isinstance(chosen, type) and is_dataclass(chosen)):
        return {}
    if not (issubclass(chosen, type(current)) or isinstance(current, chosen)):
        return {}
    known = {f.name for f in fields(chosen)}
    return {f.name: getattr(current, f.name) for f in fields(current) if f.name in known}


def _chosen(name: Any, known: Mapping[str, Any], where: str) -> Any:
    """A value by its name, or the user's own by FILE.py:NAME."""
    if isinstance(name, str) and names_a_file(name):
        return load_object(name, "slot", _OPENED)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where} = {name!r} is not known{nearest(str(name), known)}")
    return known[name]


def _values(made: Any, inside: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a class as their types want them."""
    if not inside:
        return {}
    hints, known = get_type_hints(made), [f.name for f in fields(made)]
    values: dict[str, Any] = {}
    for name, value in inside.items():
        if name not in known:
            raise UserError(f"{where}.{name} is not a field of {made.__name__}{nearest(name, known)}")
        hint = hints[name]
        if hint == sample.Keep:
            values[name] = _chosen(value, KEEPS, f"{where}.{name}")
            continue
        if isinstance(value, bool) is not (hint is bool):  # pydantic would take true for 1, and 1 for true
            wanted = "true or false" if hint is bool else "a number" if hint in (int, float) else "a word"
            raise UserError(f"{where}.{name} = {str(value).lower()} should be {wanted}")
        try:
            values[name] = TypeAdapter(hint).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{where}.{name} = {value!r}: {error.errors()[0]['msg']}") from None
    return values
