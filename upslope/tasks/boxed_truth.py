r"""Right answers of a data set that no answer could be compared with (``upslope.tasks.boxed`` has the rules)."""

from __future__ import annotations

import re

from upslope.tasks.boxed import MAX_ANSWER, is_words
from upslope.tasks.boxed_notation import UNITS, closing, is_balanced, plainly
from upslope.tasks.boxed_number import number_of

_PROSE = re.compile(r"(?<!\S)([a-zA-Z]{2,}) ([a-zA-Z]{2,})(?![^\s.,:;!?])")


def unusable(truth: str) -> str | None:
    r"""Why nothing, or anything, could be equal to such a truth; None if it is one.

    >>> unusable(r"\frac12"), unusable("{"), unusable("#### 5"), unusable("$")
    (None, 'its braces are not balanced', "'####' is GSM8K's mark and no mathematics", 'it is empty')
    """
    if len(truth) > MAX_ANSWER:
        return f"it is longer than any answer may be ({MAX_ANSWER} characters)"
    if is_words(truth):
        return None
    if not plainly(truth):
        return "it is empty"
    if "####" in truth:
        return "'####' is GSM8K's mark and no mathematics"
    if not is_balanced(truth):
        return "its braces are not balanced"
    if not any(character.isalnum() for character in plainly(truth)):
        return "it has neither a number nor a letter"
    text = plainly(truth)
    if not all(_has_arguments(text, found.end(), found[1]) for found in re.finditer(r"\\(frac|sqrt)(?![a-z])", text)):
        return "a \\frac or \\sqrt has nothing to work on"
    prose = [word for pair in _PROSE.findall(_without_text(truth)) for word in pair]
    if prose and number_of(truth) is None and not UNITS.issuperset(word.lower() for word in prose):
        return "it is a sentence (words belong in \\text{...}, and a formula stands alone)"
    return None


def _has_arguments(text: str, place: int, command: str) -> bool:
    for _ in range(2 if command == "frac" else 1):
        found = re.compile(r"\[[^\]]*\](?=.)|\\[a-zA-Z]+|\{|[^\s}^_&+=*/,)-]").match(text, place)
        end = closing(text, place) if found and found[0] == "{" else found.end() - 1 if found else None
        if end is None:
            return False
        place = end + 1
    return True


def _without_text(truth: str) -> str:
    return re.sub(r"\\[a-zA-Z]+\s*\{[^{}]*\}|\\[a-zA-Z]+", " ; ", truth)
