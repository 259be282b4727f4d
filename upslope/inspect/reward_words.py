"""Reward functions in words: each one's mean, its spread, and how often it did not apply."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from upslope.inspect.words import percent, visible
from upslope.record.journal import JournalRow, number


def reward_names(rows: Sequence[JournalRow]) -> list[str]:
    """The functions that these rows tell of, in their order."""
    tables = [row.get("rewards") for row in rows]
    return list(dict.fromkeys(str(name) for table in tables if isinstance(table, Mapping) for name in table))


def reward_pairs(row: JournalRow) -> list[str]:
    """``rewards.form=0.25 (0.1, none 0.5)`` for every function, in a form that greps; the bracket has the standard
    deviation."""
    found = []
    for name in reward_names([row]):
        mean, std, none = (number(row, "rewards", name, key) for key in ("mean", "std", "none"))
        more = f", none {none:.4g}" if none > 0 else ""
        found.append(f"rewards.{visible(name)}={mean:.4g} ({std:.4g}{more})")
    return found


def reward_columns(row: JournalRow) -> str:
    """``form 0.25 ± 0.1   truth 0.5 ± 0.5``, for a screen."""
    told = []
    for name in reward_names([row]):
        mean, std, none = (number(row, "rewards", name, key) for key in ("mean", "std", "none"))
        told.append(f"{visible(name)} {mean:.3g} ± {std:.2g}" + (f" (none {none:.0%})" if none > 0 else ""))
    return "   ".join(told)


def reward_lines(rows: Sequence[JournalRow]) -> list[str]:
    """A line for every function: its mean in the first and in the last row, and its spread in the last one."""
    lines = []
    for name in reward_names(rows):
        known = [row for row in rows if math.isfinite(number(row, "rewards", name, "mean"))]
        ends = [f"{number(row, 'rewards', name, 'mean'):.3f}" for row in known[:1] + known[1:][-1:]]
        std, none = (number(rows[-1], "rewards", name, key) for key in ("std", "none"))
        spread = f", spread {std:.3f}" if math.isfinite(std) else ""
        more = f", not applicable to {percent(none)}" if none > 0 else ""
        lines.append(f"reward      {visible(name)} {' -> '.join(ends) or 'never applied'}{spread}{more}")
    return lines
