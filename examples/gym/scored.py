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
    prompts: list[str], completions: list[str], task: list[str], answer: list[str], metadata: list[Any], **_: object
) -> list[float]:
    """``task``, ``answer`` and ``metadata`` are columns of the rows: reasoning-gym's entry is made of them again."""
    rewards = []
    for question, text, name, truth, known in zip(prompts, completions, task, answer, metadata, strict=True):
        entry = {"question": question, "answer": truth, "metadata": known}
        rewards.append(float(scorer(name)(marked(text), entry) >= 1))
    return rewards


def marked(text: str) -> str | None:
    """The rest of the line after the last marker; None without one.

    >>> marked("46 + 60 = 106\\n#### 106")
    '106'
    """
    _, marker, after = text.rpartition(MARKER)
    return after.strip().partition("\n")[0].strip() if marker else None
