"""The reward: 1 if reasoning-gym's own scorer gives the marked answer full marks, else 0.

Its scorers pay a part for an answer that is nearly right, or that holds the right one; here only 1 is right.
"""

from __future__ import annotations

import functools
from typing import Any

from reasoning_gym import get_score_answer_fn

MARKER = "####"

scorer = functools.cache(get_score_answer_fn)


def right(
    completions: list[str], prompt: list[str], task: list[str], answer: list[str], metadata: list[Any], **_: object
) -> list[float]:
    """All but the completions are columns of the rows."""
    pairs = zip(prompt, task, answer, metadata, strict=True)
    entries = [(name, {"question": q, "answer": a, "metadata": m}) for q, name, a, m in pairs]
    found = [marked(text) for text in completions]
    return [float(scorer(name)(given, entry) >= 1) for given, (name, entry) in zip(found, entries, strict=True)]


def marked(text: str) -> str | None:
    """The rest of the line after the last marker; None without one.

    >>> marked("46 + 60 = 106\\n#### 106")
    '106'
    """
    _, marker, after = text.rpartition(MARKER)
    return after.strip().partition("\n")[0].strip() if marker else None
