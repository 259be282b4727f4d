"""Strings that are prompts already: whether a chat template has written them, told from what it writes around a turn.

The rule, for a prompt that is a string: it holds the model's chat template if it holds one of the special tokens that
the template opens and closes turns with (start, end and padding of texts do not count); of a template without such
tokens, if the last turn that it opens in the template's words (``User:``, ``Assistant:``) is the assistant's.
"""

from __future__ import annotations

import re
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


def header_of(before: str, marks: Iterable[str]) -> str:
    """What a template writes between the last mark and the words of a turn, as a pattern: of any role where it is the
    role's name. ``before``: all that it writes before what a user says.

    >>> header_of("<|im_start|>user\\n", ["<|im_start|>"])
    '\\\\w+\\\\\\n'
    """
    for mark in sorted(filter(None, marks), key=len, reverse=True):
        before = before.rpartition(mark)[2]
    return re.escape(before).replace("user", r"\w+")


def longest_words(text: str, marks: Iterable[str], header: str) -> tuple[int, int]:
    """(begin, end) of the longest words of a prompt that a template wrote: between two marks, and behind the header and
    the space that follow the first of them.

    >>> longest_words("<u>user\\nHow many?</u>", ["<u>", "</u>"], r"\\w+\\n")
    (8, 17)
    """
    known = "|".join(map(re.escape, sorted(filter(None, marks), key=len, reverse=True)))
    found = list(re.finditer(known, text)) if known else []
    begins = [0, *(mark.end() for mark in found)]
    ends = [*(mark.start() for mark in found), len(text)]
    open_ = re.compile(rf"(?:{header})?\s*")
    spans = []
    for n, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        opened = open_.match(text, begin, end) if n else None
        spans.append((opened.end() if opened else begin, end))
    return max(spans, key=lambda span: span[1] - span[0])


def foreign_mark(text: str) -> str:
    """What a string holds that some other chat template may have written; empty if nothing.

    >>> foreign_mark("[INST] Hi [/INST]"), foreign_mark("Hi")
    ('[/INST]', '')
    """
    found = next((mark for mark in FOREIGN if mark in text), "")
    last = text.rstrip().splitlines()[-1:] or [""]
    return found or next((mark for mark in ("Assistant:", "ASSISTANT:") if mark in last[0]), "")
