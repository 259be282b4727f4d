"""A run that somebody looks at: its place, its journal, its settings."""

from __future__ import annotations

import hashlib
import json
import math
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.inspect.reading.family import lineage_of
from upslope.inspect.reading.places import RunPlace
from upslope.inspect.reading.tail import Tail
from upslope.record.journal import JOURNAL, number


@dataclass
class OpenRun:
    """A run that somebody looks at: its place, its journal, its settings."""

    place: RunPlace
    tail: Tail
    _settings: tuple[float, dict[str, Any], str] | None = field(default=None, repr=False)

    @staticmethod
    def at(place: RunPlace) -> OpenRun:
        return OpenRun(place, Tail(place.journal_file))

    @property
    def settings(self) -> dict[str, Any]:
        """What run.toml says; empty where it cannot be read."""
        return self._read()[1]

    @property
    def trouble(self) -> str:
        """What is wrong with the run's files, in one line; empty if nothing is."""
        return " · ".join(words for words in (self._read()[2], self.tail.trouble) if words)

    def _read(self) -> tuple[float, dict[str, Any], str]:
        file = self.place.settings_file()
        changed = file.stat().st_mtime if file is not None else 0.0
        if self._settings is None or self._settings[0] != changed:
            found, trouble = {}, ""
            try:
                if file is None:
                    raise UserError("there is no run.toml")
                found = tomllib.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError, UserError) as error:
                trouble = f"run.toml: {str(error).splitlines()[0]}" if not isinstance(error, UserError) else str(error)
            self._settings = (changed, found, trouble)
        return self._settings

    def said(self, *keys: str) -> Any:
        """A setting by its way; None where there is none."""
        found: Any = self.settings
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    @property
    def recipe(self) -> str:
        found = self.said("recipe")
        return str(found.get("name", "")) if isinstance(found, Mapping) else str(found or "")

    @property
    def lineage(self) -> dict[str, Any]:
        """Whose patch the recipe is, and in which slots; empty where nobody knows."""
        return lineage_of(self.said("recipe"))

    @property
    def family(self) -> str:
        """Equal for runs that differ in nothing but their seed, name, place and machine: they are folded into one
        curve."""
        apart = ("seed", "name", "out", "threads", "device", "versions")
        kept = {key: value for key, value in self.settings.items() if key not in apart}
        told = json.dumps(kept, sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:12] if kept else self.place.name

    def summary(self) -> dict[str, Any]:
        """A row of the table of runs."""
        with self.tail.lock:
            return self._summary()

    def _summary(self) -> dict[str, Any]:
        tail = self.tail
        tried = [row for _, row in sorted(tail.evals.items()) if "greedy" in row]
        ends = [row for row in tail.notes if row.get("kind") == "end"]
        spent = tail.column("spent")
        tokens = math.fsum(value for value in tail.column("num_tokens") if math.isfinite(value))
        total = self.said("steps")
        return {
            "name": self.place.name,
            "recipe": self.recipe,
            "lineage": self.lineage,
            "task": self.said("task", "name") or ("text" if self.said("task", "text") else ""),
            "model": Path(str(self.said("model") or "")).name or str(self.said("model") or ""),
            "seed": self.said("seed"),
            "steps": len(tail.steps),
            "total": total if isinstance(total, int) else None,
            "accuracy": [accuracy_of(row) for row in (tried[:1] + tried[1:][-1:])],
            "tokens": tokens,
            "seconds": next((value for value in reversed(spent) if math.isfinite(value)), 0.0),
            "changed": self._changed(),
            "age": max(time.time() - self._changed(), 0.0) if self._changed() else None,
            "family": self.family,
            "ended": str(ends[-1].get("cause", "")) if ends else "",
            "trouble": self.trouble,
        }

    def _changed(self) -> float:
        try:
            return (self.place.folder / JOURNAL).stat().st_mtime
        except OSError:
            return 0.0


def accuracy_of(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Greedy accuracy of an evaluation with its interval, as JSON can say it."""
    found = {key: number(row, "greedy", key) for key in ("value", "low", "high", "num_problems")}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}
