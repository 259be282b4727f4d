"""What a task may put in between while an attempt is written: the world's words in the middle of the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Episode(Protocol):
    """The world of one attempt.

    The attempt is paused when the policy has written one of ``stops``, and ``reply`` is asked. What it answers becomes
    tokens of the attempt that the policy did not choose: they are read, and cost and earn nothing
    (``Rollout.mask``). Then the policy goes on. Its own tokens stay what they were; only the reply is tokenised.

    Replies come from the text alone, or from the attempt's own past replies: never from a clock, a generator or
    another attempt, since the same seed must give the same attempt. ``upslope.tasks.calculator`` is one.
    """

    stops: Sequence[str]
    """The attempt is paused after the token with which one of these is complete."""

    def reply(self, text: str) -> str | None:
        """What the world writes after ``text``, all that was written so far by both; "" if it was asked and has
        nothing to say (which is counted), None if this is no question to it."""
        ...
