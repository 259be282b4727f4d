"""Attempts by what they say and earned, newest step first, a stretch of time at a go."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class SearchPlace:
    """Where a search goes on: with the steps below ``before`` (None: all), of the newest of them behind the first
    ``skip`` attempts.

    >>> SearchPlace.read("7"), SearchPlace.read("7.64"), str(SearchPlace(8, 64))
    (SearchPlace(before=7, skip=0), SearchPlace(before=8, skip=64), '7.64')
    """

    before: int | None = None
    skip: int = 0

    @staticmethod
    def read(text: str) -> SearchPlace:
        """``STEP``: below it; ``STEP.NUM``: in it, behind its first NUM attempts, then below it. Raises UserError."""
        if not text:
            return SearchPlace()
        step, dot, skip = text.partition(".")
        if not all(
            part.isascii() and part.isdecimal() and len(part) < 16 for part in ([step, skip] if dot else [step])
        ):
            raise UserError(f"before={text[:40]!r} is no step")
        return SearchPlace(int(step) + 1, int(skip)) if dot else SearchPlace(int(step))

    def __str__(self) -> str:
        return f"{(self.before or 1) - 1}.{self.skip}" if self.skip else str(self.before)


@dataclass
class AttemptSearch:
    """A stretch of a search: it ends with ``MOST_FOUND`` attempts, or after ``seconds`` by ``clock``, and then knows
    where to go on. At least one row group is looked through."""

    wanted: AttemptQuery
    seconds: float
    clock: Callable[[], float]
    found: list[Brief] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Of files that cannot be read."""

    def __post_init__(self) -> None:
        self._until, self._looked = self.clock() + self.seconds, False

    @property
    def is_over(self) -> bool:
        return len(self.found) >= MOST_FOUND or (self._looked and self.clock() > self._until)

    def look_through(self, place: RunPlace, kind: str, steps: Sequence[int], since: SearchPlace) -> SearchPlace | None:
        """Look through ``steps`` in their order, and say where to go on; None if all were looked through."""
        skip = since.skip if steps and since.before == steps[0] + 1 else 0
        for step in steps:
            if self.is_over:
                return SearchPlace(step + 1)
            path = place.attempts_file(kind, step)
            if path is not None:
                try:
                    with AttemptsFile(path) as file:
                        stopped = self._in_file(file, step, skip)
                except UserError as error:
                    self.troubles.append(str(error))
                else:
                    if stopped:
                        return SearchPlace(step + 1, stopped)
            self._looked, skip = True, 0
        return None

    def _in_file(self, file: AttemptsFile, step: int, skip: int) -> int:
        """The place before which it stopped; 0 where it came to the end."""
        for first, rows in file.groups(self.wanted.columns, skip):
            for place, row in enumerate(rows, start=first):
                if place < skip or not self.wanted.fits(row):
                    continue
                if len(self.found) >= MOST_FOUND:
                    return place
                shown = {key: row.get(key) for key in ("problem", "sample", "reward", "ended", "kept", "extracted")}
                shown |= {"excerpt": excerpt(row, self.wanted.text), "step": step, "place": place}
                self.found.append(shown)
            self._looked = True
            if self.is_over and first + len(rows) < file.num_rows:
                return first + len(rows)
        return 0


def search(
    place: RunPlace, kind: str, since: SearchPlace, wanted: AttemptQuery, seconds: float = 0.3
) -> dict[str, Any]:
    """The newest attempts that fit, ``MOST_FOUND`` at most. ``next`` is where to go on, None at the end; ``left`` how
    many steps were not looked through to their end."""
    steps = [step for step in reversed(place.attempt_steps(kind)) if since.before is None or step < since.before]
    looking = AttemptSearch(wanted, seconds, time.monotonic)
    goes_on = looking.look_through(place, kind, steps, since)
    left = 0 if goes_on is None else sum(step < (goes_on.before or 0) for step in steps)
    following = None if goes_on is None else str(goes_on)
    return {"found": looking.found, "troubles": looking.troubles[:5], "left": left, "next": following}


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
