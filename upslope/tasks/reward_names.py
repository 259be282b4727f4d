"""What reward functions are called, in messages and wherever their values are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from upslope.errors import UserError
from upslope.tasks.reward_calls import RewardFunction, unwrapped


def names_apart(specs: Sequence[str | RewardFunction], functions: Sequence[RewardFunction]) -> list[str]:
    """One for each function, all different: its own, below partial and wrappers; where it has none (a lambda), or
    another has the same, the NAME it was given by; where that is the same too, its file's name before it.

    >>> names_apart(["a.py:f", "b.py:f", "b.py:g"], [len, len, min])
    ['a.f', 'b.f', 'min']

    Raises UserError for one that is given twice.
    """
    own = [_own_name(function) for function in functions]
    given = [spec.rpartition(":")[2] if isinstance(spec, str) else name for spec, name in zip(specs, own, strict=True)]
    places = [Path(spec.rpartition(":")[0]).with_suffix("") if isinstance(spec, str) else None for spec in specs]
    names = [n if n != "<lambda>" else g for n, g in zip(own, given, strict=True)]
    names = _told_apart(names, given)
    names = _told_apart(names, [f"{p.name}.{g}" if p else g for p, g in zip(places, given, strict=True)])
    names = _told_apart(names, [f"{p}.{g}" if p else g for p, g in zip(places, given, strict=True)])
    twice = [g for g, name in zip(given, names, strict=True) if names.count(name) > 1]
    if twice:
        raise UserError(
            f"two reward functions are called {twice[0]!r}: rename one, or give each once; their values are reported "
            "by name"
        )
    return names


def _own_name(function: RewardFunction) -> str:
    plain = unwrapped(function)
    return str(getattr(plain, "__name__", type(plain).__name__))


def _told_apart(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The names, and the others in the place of those that are there more than once."""
    num = Counter(names)
    return [other if num[name] > 1 else name for name, other in zip(names, others, strict=True)]
