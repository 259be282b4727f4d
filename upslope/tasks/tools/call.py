"""A call of a tool, as it was read from what a policy wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call of a tool, or of what was meant as one.

    >>> Call("add", {"a": 1}).fault
    ''
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    """Why it is none; empty if it is one."""
    positional: tuple[Any, ...] = ()
    """Arguments without a name, as Python has them."""
    spelled: bool = False
    """Whether the arguments are texts that stand for values: their parameters say of what kind."""


def call_id(number: int) -> str:
    """Of the n-th call of a conversation: nine signs, as Mistral's template wants them.

    >>> call_id(3)
    'call00003'
    """
    return f"call{number:05d}"
