"""Strings that are prompts already: whether a chat template has written them, told from what it writes around a turn.

The rule, for a prompt that is a string: it holds the model's chat template if it holds one of the special tokens that
the template opens and closes turns with (start, end and padding of texts do not count); of a template without such
tokens, if the last turn that it opens in the template's words (``User:``, ``Assistant:``) is the assistant's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FOREIGN = (
    *("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|turn>", "<|start|>", "[/INST]", "<|User|>"),
    *("<｜User｜>", "<|user|>", "<|assistant|>", "<|end_of_turn|>", "<|START_OF_TURN_TOKEN|>", "### Response:"),
)
"""What widely used templates write around a turn."""


@dataclass(frozen=True)
class TurnMarks:
    """What a chat template writes around a turn.

    >>> TurnMarks(("<|im_start|>",), "", "").are_in("<|im_start|>user"), TurnMarks((), "Q:", "A:").are_in("Q: 1? A:")
    (True, True)
    """

    tokens: tuple[str, ...]
    """Special ones."""
    user: str
    """Words that open a user's turn, where there are no such tokens;"""
    assistant: str
    """and the assistant's."""

    def are_in(self, text: str) -> bool:
        if self.tokens:
            return any(token in text for token in self.tokens)
        return bool(self.user and self.assistant) and text.rfind(self.assistant) > text.rfind(self.user) >= 0


def turn_marks(before: str, after: str, special: Iterable[str], apart: Iterable[str]) -> TurnMarks:
    """From what a template writes before and after what a user says, a generation prompt included. ``special`` tokens
    count, but for those set ``apart``."""
    around = before + after
    there = [token for token in special if token and token in around]
    words = [before, after]
    for token in sorted(there, key=len, reverse=True):
        words = [part.replace(token, "\n") for part in words]
    lines = [part.strip().splitlines() or [""] for part in words]
    return TurnMarks(tuple(t for t in there if t not in {*apart}), lines[0][-1].strip(), lines[1][-1].strip())


def foreign_mark(text: str) -> str:
    """What a string holds that some other chat template may have written; empty if nothing.

    >>> foreign_mark("[INST] Hi [/INST]"), foreign_mark("Hi")
    ('[/INST]', '')
    """
    found = next((mark for mark in FOREIGN if mark in text), "")
    last = text.rstrip().splitlines()[-1:] or [""]
    return found or next((mark for mark in ("Assistant:", "ASSISTANT:") if mark in last[0]), "")
