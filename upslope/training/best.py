"""Which evaluation of a run was the best so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Worth = tuple[float, float]


def worth(row: Mapping[str, Any]) -> Worth | None:
    """What an evaluation's row counts for, more being better: greedy accuracy (where nothing says what is right, mean
    reward), and among equals the lower held-out loss; None where it measured none of them.

    >>> worth({"greedy": {"value": 0.5}}) > worth({"greedy": {"value": 0.25}, "held_out_loss": 1.0})
    True
    >>> worth({"held_out_loss": 1.0}) > worth({"held_out_loss": 2.0})
    True
    >>> worth({"reward": 1.5}) > worth({"reward": 1.0})
    True
    """
    greedy, loss = row.get("greedy"), row.get("held_out_loss")
    tried = greedy["value"] if greedy is not None else row.get("reward")
    if tried is None and loss is None:
        return None
    return (tried if tried is not None else 0.0), (-loss if loss is not None else 0.0)


class Best:
    """The best evaluation so far, of those after at least one step: before that the weights are another's."""

    def __init__(self) -> None:
        self._worth: Worth | None = None
        self.step: int | None = None
        """After which it was made; None: there is none yet."""

    def beaten_by(self, row: Mapping[str, Any]) -> bool:
        """Whether this row is better than all before; it is the best then. The first of equals stays."""
        found = worth(row) if row["step"] else None
        if found is None or (self._worth is not None and found <= self._worth):
            return False
        self._worth, self.step = found, row["step"]
        return True

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Best:
        """The best of these rows of a journal."""
        best = cls()
        for row in rows:
            best.beaten_by(row)
        return best


def idle(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many evaluations, at the end of these rows of a journal, were not better than the best before them; the one
    before the first step counts like any other.

    >>> idle([{"kind": "eval", "step": step, "reward": value} for step, value in enumerate([0.1, 0.4, 0.4, 0.2])])
    2
    """
    found = {row["step"]: worth(row) for row in rows if row["kind"] == "eval"}  # one evaluation a step
    num, best = 0, None
    for _, value in sorted(found.items()):
        if value is not None and (best is None or value > best):
            num, best = 0, value
        elif value is not None:
            num += 1
    return num
