"""What a user's object says about words in between, and rewards on the way: a world that may crash, spans and steps
that may be none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, said, unless_interrupted
from upslope.tasks.episode import Episode
from upslope.tasks.reward_values import finite


class GuardedEpisode:
    """A user's episode; every fault of its ``reply`` is a UserError that begins with ``where``."""

    def __init__(self, own: Episode, where: str, file: str) -> None:
        """Raises UserError if it has no ``reply`` or no ``stops``."""
        stops = getattr(own, "stops", None)
        texts = isinstance(stops, tuple | list) and all(isinstance(stop, str) and stop for stop in stops)
        if not (callable(getattr(own, "reply", None)) and stops and texts):
            raise UserError(
                f"{where}: episode() returned a {type(own).__name__}; it needs reply(text), and stops, a tuple of "
                "texts that are not empty"
            )
        self._reply: Callable[[str], Any] = own.reply
        self._where, self._file = f"{where}: the episode's reply()", file
        self.stops: Sequence[str] = tuple(stops)

    def reply(self, text: str) -> str | None:
        try:
            answer = self._reply(text)
        except UserError:
            raise
        except BaseException as error:
            unless_interrupted(error)
            raise UserError(f"{self._where} crashed: {describe(error, self._file)}") from error
        if answer is not None and not isinstance(answer, str):
            raise UserError(
                f"{self._where} returned {said(answer):.60}; it must be text, or None where nothing is asked"
            )
        return answer


def require_spans(spans: Any, length: int, where: str) -> None:
    """Raise UserError, beginning with ``where``, unless ``spans`` are (begin, end) in a text of ``length`` characters,
    in order and apart."""
    reached = 0
    for span in spans if isinstance(spans, tuple | list) else [spans]:
        two = isinstance(span, tuple | list) and len(span) == 2 and all(type(place) is int for place in span)
        if not two or not reached <= span[0] <= span[1] <= length:
            raise UserError(
                f"{where}: replies holds {said(span):.60}; each is (begin, end), characters of the demonstration "
                f"(it has {length}), in order and apart"
            )
        reached = span[1]


def require_steps(steps: Any, gave: str) -> None:
    """Raise UserError, beginning with ``gave``, unless ``steps`` are (number of characters, reward)."""
    for step in steps if isinstance(steps, tuple | list) else [steps]:
        two = isinstance(step, tuple | list) and len(step) == 2 and type(step[0]) is int and step[0] >= 0
        if not two or finite(step[1]) is None:
            raise UserError(f"{gave} the step {said(step):.60}; steps are (number of characters, reward) each")
