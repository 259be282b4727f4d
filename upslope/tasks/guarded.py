"""What a user's object says about words in between, and rewards on the way: a world that may crash, spans and steps
that may be none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, said, unless_interrupted
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.tasks.reward_values import finite
from upslope.types import Message, Score


class GuardedEpisode(Episode):
    """A user's episode; every fault of its methods is a UserError that begins with ``where``."""

    def __init__(self, own: Episode, where: str, file: str) -> None:
        """Raises UserError if it has no ``reply`` or no ``stops``."""
        stops = getattr(own, "stops", None)
        texts = isinstance(stops, tuple | list) and all(isinstance(stop, str) and stop for stop in stops)
        if not (callable(getattr(own, "reply", None)) and texts):
            raise UserError(
                f"{where}: episode() returned a {type(own).__name__}; it needs reply(text), and stops, a tuple of "
                "texts that are not empty (no texts: it is asked at the end of every turn)"
            )
        self._own, self._where, self._file = own, f"{where}: the episode's", file
        self.stops: Sequence[str] = tuple(stops or ())
        limits = getattr(own, "limits", ConversationLimits())
        if not isinstance(limits, ConversationLimits):
            raise UserError(f"{where}: episode() has limits = {said(limits):.60}; give upslope.ConversationLimits(...)")
        self.limits = limits
        self.keep_special = bool(getattr(own, "keep_special", False))

    @property
    def calls(self) -> int:  # type: ignore[override]
        return int(getattr(self._own, "calls", 0))

    @property
    def wrong_calls(self) -> int:  # type: ignore[override]
        return int(getattr(self._own, "wrong_calls", 0))

    def reply(self, text: str) -> Reply:
        answer: Reply = self._call("reply", text)
        if self.stops and not (answer is None or isinstance(answer, str) or are_tokens(answer)):
            raise UserError(
                f"{self._where} reply() returned {said(answer):.60}; it must be text, tokens, or None where nothing is "
                "asked"
            )
        require_reply(answer, f"{self._where} reply()")
        return answer

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        if not hasattr(self._own, "opening"):
            return messages
        found = self._call("opening", messages)
        require_messages(found, f"{self._where} opening()")
        return tuple(found)

    def score(self, chat: Sequence[Message]) -> Score | None:
        found = self._call("score", chat) if hasattr(self._own, "score") else None
        if not isinstance(found, Score | None):
            raise UserError(f"{self._where} score() returned {said(found):.60}; it must be a Score, or None")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._own, method)(*arguments)
        except UserError:
            raise
        except BaseException as error:
            unless_interrupted(error)
            raise UserError(f"{self._where} {method}() crashed: {describe(error, self._file)}") from error


def require_reply(answer: Any, where: str) -> None:
    """Raise UserError, beginning with ``where``, for what is neither text, nor messages, nor tokens, nor None."""
    if answer is None or isinstance(answer, str):
        return
    if not are_tokens(answer):
        require_messages(answer, where)


def are_tokens(answer: Any) -> bool:
    """Whether it is a sequence of token ids, which may be empty."""
    return isinstance(answer, tuple | list) and all(type(item) is int for item in answer)


def require_messages(chat: Any, where: str) -> None:
    """Raise UserError, beginning with ``where``, unless these are messages with a role and text."""
    for message in chat if isinstance(chat, tuple | list) else [chat]:
        if not is_message(message):
            raise UserError(
                f"{where} returned {said(message):.60}; it must be text, tokens, messages "
                "{'role': ..., 'content': ...}, or None where nothing is asked"
            )


def is_message(message: Any) -> bool:
    """Whether it has a role and text."""
    return isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))


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
