"""The reward of the sums: 1 if the number after the last ``####`` is the sum, else 0.

The signature is the one TRL's GRPOTrainer calls: lists in, a list of floats out, one for each completion.
"""

from __future__ import annotations

import re

MARKED = re.compile(r"####\s*(-?[0-9]+)\s*$")


def right_sum(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """``completions`` are strings here because the rows' prompts are; ``answer`` is a column of the rows."""
    found = [MARKED.search(text.strip()) for text in completions]
    return [float(m is not None and int(m.group(1)) == int(truth)) for m, truth in zip(found, answer, strict=True)]
