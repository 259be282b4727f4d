"""Attempts by what they say and earned, newest step first, a stretch of time at a go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.inspect.reading.attempts import AttemptsFile, Brief
from upslope.inspect.reading.places import RunPlace

MOST_FOUND = 50
"""Attempts in one answer."""
AROUND = 60
"""Characters shown on each side of what was looked for."""


@dataclass(frozen=True)
class AttemptQuery:
    """Which attempts are looked for; what is empty or None asks nothing.

    >>> AttemptQuery(text="#### 72", least_reward=1.0).fits({"response_text": "so #### 72", "reward": 1.0})
    True
    """

    text: str = ""
    """Somewhere in the attempt or its prompt; case does not matter."""
    problem: str = ""
    least_reward: float | None = None
    most_reward: float | None = None
    least_length: int | None = None
    """In tokens."""
    most_length: int | None = None
    ended: str = ""

    @property
    def columns(self) -> list[str]:
        needed = ["problem", "sample", "reward", "ended", "kept", "extracted", "response_text"]
        needed += ["prompt_text"] if self.text else []
        return needed + (["mask"] if self.least_length is not None or self.most_length is not None else [])

    def fits(self, row: Brief) -> bool:
        reward = row.get("reward")
        reward = float("nan") if reward is None else float(reward)
        return (
            (not self.problem or row.get("problem") == self.problem)
            and (not self.ended or row.get("ended") == self.ended)
            and (self.least_reward is None or reward >= self.least_reward)
            and (self.most_reward is None or reward <= self.most_reward)
            and self._long_enough(row)
            and (not self.text or any(self.text.lower() in text.lower() for text in _texts(row)))
        )

    def _long_enough(self, row: Brief) -> bool:
        if self.least_length is None and self.most_length is None:
            return True
        if "mask" not in row:
            return False
        length = sum(map(bool, row["mask"] or ()))
        return (self.least_length or 0) <= length and (self.most_length is None or length <= self.most_length)


def look_through(
    place: RunPlace, kind: str, steps: Sequence[int], wanted: AttemptQuery, seconds: float, clock: Callable[[], float]
) -> dict[str, Any]:
    """Look through ``steps`` in their order until ``MOST_FOUND`` are found or ``seconds`` are over: ``found``,
    ``looked`` how many of the steps were looked through (whole ones), ``troubles`` of files that cannot be read."""
    found: list[Brief] = []
    troubles: list[str] = []
    begun, looked = clock(), 0
    for step in steps:
        if (found and len(found) >= MOST_FOUND) or (looked and clock() - begun > seconds):
            break
        try:
            found += _in_step(place, kind, step, wanted)
        except UserError as error:
            troubles.append(str(error))
        looked += 1
    return {"found": found, "looked": looked, "troubles": troubles[:5]}


def search(
    place: RunPlace, kind: str, before: int | None, wanted: AttemptQuery, seconds: float = 0.3
) -> dict[str, Any]:
    """The newest attempts that fit, of steps below ``before`` (None: all). ``next`` is where to go on, None at the
    end; ``left`` how many steps were not looked through."""
    steps = [step for step in reversed(place.attempt_steps(kind)) if before is None or step < before]
    answer = look_through(place, kind, steps, wanted, seconds, time.monotonic)
    left = len(steps) - answer["looked"]
    return answer | {"left": left, "next": steps[answer["looked"] - 1] if left else None}


def _in_step(place: RunPlace, kind: str, step: int, wanted: AttemptQuery) -> list[Brief]:
    path = place.attempts_file(kind, step)
    if path is None:
        return []
    found = []
    with AttemptsFile(path) as file:
        for first, rows in file.groups(wanted.columns):
            for offset, row in enumerate(rows):
                if wanted.fits(row):
                    shown = {key: row.get(key) for key in ("problem", "sample", "reward", "ended", "kept", "extracted")}
                    shown["excerpt"] = excerpt(row, wanted.text)
                    found.append(shown | {"step": step, "place": first + offset})
    return found


def excerpt(row: Brief, text: str) -> str:
    """What stands around the first place of ``text``; the end of the attempt where nothing was looked for.

    >>> excerpt({"response_text": "x" * 100 + "72" + "y" * 100}, "72") == "…" + "x" * 60 + "72" + "y" * 60 + "…"
    True
    """
    for said in _texts(row):
        at = said.lower().find(text.lower()) if text else max(len(said) - 2 * AROUND, 0)
        if at >= 0:
            start, end = max(at - AROUND, 0), at + (len(text) or 2 * AROUND) + AROUND
            return ("…" if start else "") + said[start:end] + ("…" if end < len(said) else "")
    return ""


def _texts(row: Brief) -> list[str]:
    return [text for text in (row.get("response_text"), row.get("prompt_text")) if isinstance(text, str)]
