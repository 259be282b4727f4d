"""What looks wrong with a run while it trains: the first finding of ``upslope why``, for whoever shows the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from upslope.inspect.why.finding import Diagnosis
from upslope.inspect.why.standing import StandingDiagnosis


class LiveWhy:
    """Reads a run's records as they grow. Whatever goes wrong in that is told once, and never stops a run."""

    def __init__(self, tell: Callable[[str], None], folder: Path | None = None) -> None:
        """Without ``folder`` there is nothing to read, and nothing is found."""
        self._tell = tell
        self._standing = StandingDiagnosis.at(folder) if folder is not None else None
        self.first: Diagnosis | None = None
        """The likeliest cause, as of the last look; None where nothing looks wrong."""

    def look(self, *, patient: bool = True) -> bool:
        """Look again, where that is worth its time (always, if not ``patient``); whether another finding is first
        now."""
        if self._standing is None:
            return False
        before = self.first
        try:
            self.first = next(iter(self._standing.found(patient=patient)), None)
        except Exception as error:  # a rule that breaks is no reason to lose a night of training
            self._standing, self.first = None, None
            self._tell(f"whether anything looks wrong cannot be said: {type(error).__name__}: {error}")
        return (before and before.rule) != (self.first and self.first.rule)

    @property
    def line(self) -> str:
        """In one line; empty where nothing looks wrong."""
        return f"{self.first.says} {self.first.numbers}" if self.first is not None else ""
