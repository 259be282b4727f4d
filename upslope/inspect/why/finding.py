"""What a rule finds."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Diagnosis:
    """A sickness of a run, with the numbers behind it and what helps.

    >>> Diagnosis("cut", "Attempts are cut.", "truncated is 0.8, more than 0.5", "raise sample.max_tokens").rule
    'cut'
    """

    rule: str
    says: str
    numbers: str
    mend: str

    def told(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {"rule": self.rule, "says": self.says, "numbers": self.numbers, "mend": self.mend}


class Diagnoses(list[Diagnosis]):
    """What looks wrong with a run, the likeliest cause first; prints as ``upslope why`` does.

    >>> Diagnoses([Diagnosis("cut", "Attempts are cut.", "80 %", "a higher sample.max_tokens")])
    1. Attempts are cut.
       80 %
       What helps: a higher sample.max_tokens
    """

    def __repr__(self) -> str:
        lines = [
            f"{place}. {found.says}\n   {found.numbers}\n   What helps: {found.mend}"
            for place, found in enumerate(self, start=1)
        ]
        return "\n".join(lines) or "Nothing looks wrong."

    def _repr_html_(self) -> str:
        rows = [
            f"<li><b>{html.escape(found.says)}</b> {html.escape(found.numbers)}.<br>"
            f"What helps: {html.escape(found.mend)}.</li>"
            for found in self
        ]
        return f"<ol>{''.join(rows)}</ol>" if rows else "<p>Nothing looks wrong.</p>"
