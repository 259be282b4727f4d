"""Where an attempt is read behind another prompt."""

from __future__ import annotations

from typing import NamedTuple


class Fork(NamedTuple):
    """Where an attempt goes on behind another prompt, as the chat template now writes what was said in another way.

    >>> Fork(begin=40, prompt=(1, 5, 6)).begin
    40
    """

    begin: int
    """The token of the response that follows the prompt."""
    prompt: tuple[int, ...]
