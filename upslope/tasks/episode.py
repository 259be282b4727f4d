"""What a task may put in between while an attempt is written: the world's words in the middle of the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from upslope.types import Message, Score

Reply = str | Sequence[Message] | Sequence[int] | None
"""The world's words: text, messages of the chat, or tokens as they are. None: it has none."""


@dataclass(frozen=True)
class ConversationLimits:
    """How far a conversation may go; 0: no limit. ``Rollout.ended`` says which of them ended it.

    >>> ConversationLimits(turns=4).seconds
    0.0
    """

    turns: int = 0
    """Turns of the policy."""
    tokens: int = 0
    """Tokens of the attempt, whoever wrote them; ``sample.max_tokens`` holds as well."""
    seconds: float = 0.0
    """From its beginning. It is looked at whenever the policy has ended a turn, and while the world is at work."""

    def __post_init__(self) -> None:
        if min(self.turns, self.tokens, self.seconds) < 0:
            raise ValueError(f"limits are 0 (none) or more, not {self}")


class Episode(Protocol):
    """The world of one attempt. A subclass inherits all but ``stops`` and ``reply``.

    *In the middle of a turn.* With ``stops``, the attempt is paused when the policy has written one of them, and
    ``reply`` is asked. Its text (or tokens) follows at once, and the policy goes on in the same turn.

    *Between turns.* Without ``stops`` the attempt is a conversation: ``reply`` is asked whenever the policy has ended a
    turn. Messages (text is one of a user's) are rendered by the chat template behind the tokens so far, and the policy
    writes its next turn. None ends the attempt. Replies run in threads, so a slow world stops no other attempt, and
    those of several attempts run at the same time.

    Either way the world's tokens are none that the policy chose: they are read, and cost and earn nothing
    (``Rollout.mask``). The policy's own stay what they were; nothing is tokenised again.

    Replies come from the text and the attempt's own past: never from a clock, a generator without a seed or another
    attempt, since the same seed must give the same attempt. ``upslope.tasks.calculator`` and ``upslope.tasks.tools``
    have some.
    """

    stops: Sequence[str]
    """The attempt is paused after the token with which one of these is complete; none: at the end of every turn."""
    limits: ConversationLimits = ConversationLimits()
    """Of a conversation."""
    keep_special: bool = False
    """Whether ``reply`` is told special tokens too, all but the one that ended the turn."""
    calls: int = 0
    """Calls of tools so far."""
    wrong_calls: int = 0
    """How many of them failed."""

    def reply(self, text: str) -> Reply:
        """What the world writes after ``text``, what was written in this turn so far by both; "" if it was asked and
        has nothing to say (which is counted), None if this is no question to it."""
        ...

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The chat that a conversation begins with, given the problem's."""
        return messages

    def score(self, chat: Sequence[Message]) -> Score | None:
        """What a conversation earned, all of it after its prompt; None: the task scores the last turn. ``by_turn`` pays
        single turns."""
        return None
