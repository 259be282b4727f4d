"""What a rule finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A sickness of a run, with the numbers behind it and what helps.

    >>> Finding("cut", "Attempts are cut.", "truncated is 0.8, more than 0.5", "raise sample.max_tokens").line
    'Attempts are cut. (truncated is 0.8, more than 0.5) What helps: raise sample.max_tokens.'
    """

    rule: str
    says: str
    numbers: str
    mend: str

    @property
    def line(self) -> str:
        return f"{self.says} ({self.numbers}) What helps: {self.mend}."

    def told(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {"rule": self.rule, "says": self.says, "numbers": self.numbers, "mend": self.mend}
