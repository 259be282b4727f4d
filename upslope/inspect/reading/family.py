"""Whose patch a recorded recipe is, without the family itself, which would load torch: a page has no use for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "family.json"
"""Every member of the family with its parent and its slots as run.toml spells them; docs/make_settings.py writes it."""


@cache
def recorded_family() -> dict[str, dict[str, Any]]:
    """By name: ``parent`` (None of the first) and ``slots``."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def lineage_of(recipe: Any) -> dict[str, Any]:
    """Of run.toml's table ``recipe``: its ``parent`` and ``changes``, the slots in which it differs, each as [the
    parent's, its own]. A patch of a member has that member as its parent, a member its own. Empty for a recipe of
    somebody's file, whose slots are not spelled out, and for one that nobody knows.

    >>> grpo = recorded_family()["grpo"]["slots"]
    >>> lineage_of({"name": "grpo"} | grpo)["parent"], lineage_of({"name": "grpo"} | grpo | {"gamma": 0.5})["changes"]
    ('ppo', {'gamma': ['-', '0.5']})
    """
    if not isinstance(recipe, Mapping) or recipe.get("name") not in recorded_family():
        return {}
    name = str(recipe["name"])
    own = {slot: value for slot, value in recipe.items() if slot != "name"}
    parent = name if own != recorded_family()[name]["slots"] else recorded_family()[name]["parent"]
    if parent is None:
        return {"name": name, "parent": "", "changes": {}}
    before = recorded_family()[parent]["slots"]
    differ = [slot for slot in {**before, **own} if before.get(slot) != own.get(slot)]
    changes = {slot: [_spelled(before.get(slot)), _spelled(own.get(slot))] for slot in differ}
    return {"name": name, "parent": parent, "changes": changes}


def _spelled(slot: Any) -> str:
    """
    >>> _spelled({"kind": "k3", "coefficient": 0.04}), _spelled(None)
    ('k3(coefficient=0.04)', '-')
    """
    if slot is None:
        return "-"
    if not isinstance(slot, Mapping):
        return str(slot)
    inside = ", ".join(f"{key}={_spelled(value)}" for key, value in slot.items() if key != "kind")
    return f"{slot.get('kind', '')}({inside})" if inside else str(slot.get("kind", ""))
