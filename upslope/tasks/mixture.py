"""``task.also`` and ``task.weights``: several data sets imitated as one, each with its share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from upslope.errors import UserError
from upslope.tasks.around import AroundTask
from upslope.tasks.base import Shares, Task
from upslope.tasks.endings import require_endings
from upslope.types import Problem


def shares_of_left(shares: Shares, left: Callable[[Sequence[Problem]], Sequence[Problem]], *, weighted: bool) -> Shares:
    """Of every data set what ``left`` leaves of it; unless they are ``weighted``, each share is by the size of that."""
    kept = [(share, left(rows)) for share, rows in shares]
    total = sum(len(rows) for _, rows in kept)
    return [(share if weighted else len(rows) / total, rows) for share, rows in kept]


class Mixed(AroundTask):
    """A task whose demonstrations are mixed with those of other data sets. Problems and rewards are the task's own."""

    def __init__(self, task: Task, others: Sequence[tuple[str, Task]], weights: Sequence[float] = ()) -> None:
        """``others``: each with the name of its data. ``weights``: the task's own first; none: by size."""
        super().__init__(task)
        self._others, self._weights = others, tuple(weights)
        self._shares: Shares | None = None

    def shares(self) -> Shares:
        """Raises UserError for a data set that has none, and for a conversation whose end is not the assistant's."""
        if self._shares is None:
            found: list[tuple[str, Sequence[Problem]]] = [("task.data", super().demonstrations())]
            for name, task in self._others:
                require_endings(task)
                rows = task.demonstrations()
                found.append((name, [replace(p, id=f"{name}: {p.id}") for p in rows]))
            for name, rows in found:
                if not rows:
                    raise UserError(f"{name} has no demonstrations to mix in; drop it from task.also, or give some")
            weights = self._weights or [float(len(rows)) for _, rows in found]
            self._shares = [(w / sum(weights), rows) for w, (_, rows) in zip(weights, found, strict=True)]
        return self._shares

    def demonstrations(self) -> Sequence[Problem]:
        """Those of every data set, one after the other."""
        return [problem for _, rows in self.shares() for problem in rows]

    def place(self, problem: Problem) -> str:
        for name, task in self._others:
            if problem.id.startswith(f"{name}: "):
                return f"{name}: {task.place(replace(problem, id=problem.id.removeprefix(f'{name}: ')))}"
        return super().place(problem)

    def fingerprint(self) -> str:
        parts = [super().fingerprint(), *(task.fingerprint() for _, task in self._others), *self._weights]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
