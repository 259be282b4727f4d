"""Least values of settings, checked wherever settings are made: on the command line, from a file, in Python."""

from __future__ import annotations

import math
from dataclasses import field, fields
from typing import Any


class BelowBound(ValueError):
    """A number is smaller than it may be, or has no end; the message begins with the field's name."""


def at_least(bound: float, default: Any) -> Any:
    """A dataclass field with a default, of which a smaller number (or NaN) would be taken for something else in
    silence. ``require_bounds`` holds it; None is let through."""
    return field(default=default, metadata={"least": bound})


def bounds(kind: Any) -> dict[str, float]:
    """The least value of every field that has one."""
    return {f.name: f.metadata["least"] for f in fields(kind) if "least" in f.metadata}


def require_bounds(settings: Any) -> None:
    """Raise BelowBound for the first field below its bound."""
    for name, least in bounds(settings).items():
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise BelowBound(f"{name} = {value:g} must be at least {least:g}")
        if value == math.inf:
            raise BelowBound(f"{name} = {value:g} must be a finite number")
