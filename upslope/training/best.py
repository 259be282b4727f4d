"""Which evaluation of a run was the best so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Worth = tuple[float, float]


def worth(row: Mapping[str, Any]) -> Worth | None:
    """What an evaluation's row counts for, more being better: greedy accuracy, and among equals the lower held-out
    loss; None where it measured neither.

    >>> worth({"greedy": {"value": 0.5}}) > worth({"greedy": {"value": 0.25}, "held_out_loss": 1.0})
    True
    >>> worth({"held_out_loss": 1.0}) > worth({"held_out_loss": 2.0})
    True
    """
    greedy, loss = row.get("greedy"), row.get("held_out_loss")
    if greedy is None and loss is None:
        return None
    return (greedy["value"] if greedy is not None else 0.0), (-loss if loss is not None else 0.0)


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
