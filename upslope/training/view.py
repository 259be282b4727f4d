"""What a run tells whoever watches it. ``train`` knows this protocol only; the terminal lives in ``inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


class View(Protocol):
    """Calls come in this order: ``start``, then any mixture of the rest, then ``close`` (also after Ctrl-C)."""

    def start(self, name: str, recipe_line: str, num_steps: int, first_step: int = 0) -> None:
        """A run begins at ``first_step`` (not 0 when it resumes) and ends after update number ``num_steps``."""
        ...

    def phase(
        self, name: str, done: int | None = None, total: int | None = None, unit_speed: float | None = None
    ) -> None:
        """What is being done now (``sample``, ``update``), how far it is, and its speed in tokens a second."""
        ...

    def step(self, row: Mapping[str, Any]) -> None:
        """An update is done; ``row`` is its line of the journal."""
        ...

    def evaluated(self, row: Mapping[str, Any]) -> None:
        """Held-out problems were attempted; ``row`` is the evaluation's line of the journal."""
        ...

    def attempt(self, problem_text: str, response_text: str, reward: float) -> None:
        """One attempt of this step, to look at. The texts are a model's or a user's: anything may be in them."""
        ...

    def message(self, text: str) -> None:
        """Something worth keeping on the screen: a warning, a checkpoint's place."""
        ...

    def close(self, ok: bool) -> None:
        """The run is over, well (``ok``) or not. May be called twice."""
        ...


@runtime_checkable
class ReadsRecords(Protocol):
    """A view that reads on its own what a run writes down, beside what it is told."""

    def records_in(self, folder: Path) -> None:
        """Right after ``start``: where journal and attempts are; every step is there before ``step`` tells of it."""
        ...


class NullView:
    """Shows nothing: for tests, sweeps and worker processes."""

    def start(self, name: str, recipe_line: str, num_steps: int, first_step: int = 0) -> None:
        pass

    def phase(
        self, name: str, done: int | None = None, total: int | None = None, unit_speed: float | None = None
    ) -> None:
        pass

    def step(self, row: Mapping[str, Any]) -> None:
        pass

    def evaluated(self, row: Mapping[str, Any]) -> None:
        pass

    def attempt(self, problem_text: str, response_text: str, reward: float) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self, ok: bool) -> None:
        pass
