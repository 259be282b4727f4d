"""What a response's answer to a problem of reasoning-gym is, and which answers may be handed to its scorers.

Some scorers hand the answer to Python's ``eval``, or to sympy's parser, which does the same: whatever a model writes
there would be run. So these get lists of numbers and words, or formulas of known names, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
MARKER = "####"
LISTED = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"})
"""Read by ``eval``: lists, words, numbers."""
COUNTED = frozenset({"puzzle24", "countdown"})
"""Read by sympy: sums of numbers."""
PARSED = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})
"""Read by sympy: formulas."""
LONGEST_EVALUATED = 1000
"""Characters."""
MOST_NESTED = 2
"""Powers of something in brackets: a tower of more takes forever."""
_LIST = re.compile(r"""(?:[\[\]\s,"'\-+.0-9A-Za-z]|(?<!\w)_(?!\w))*""", re.ASCII)
_SUM = re.compile(r"(?:[\d\s+\-/().]|(?<!\*)\*(?!\*))*", re.ASCII)
_FORMULA = re.compile(r"[0-9A-Za-z\s+\-*/^(),.]*")
_NAMES = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "exp", "log", "ln", "sqrt", "pi", "asin", "acos", "atan"}
    | {"sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "Abs", "abs", "erf"}
)
_WORD = re.compile(r"[A-Za-z]+")
_POWER = re.compile(r"\*\*|\^")
_SMALL_POWER = re.compile(
    r"(?:\*\*|\^)\s*(?:\d{1,2}|[A-Za-z]|\(\s*-?\d{1,2}(?:\s*/\s*\d{1,2})?\s*\))(?!\s*(?:[\w.(^]|\*\*))"
)
_OF_BRACKETS = re.compile(r"\)\s*(?:\*\*|\^)")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z]|[A-Za-z)\]\"']\s*\.")


def answer_in_tags(response: str) -> str | None:
    """Between the last pair of tags.

    >>> answer_in_tags("<answer>7</answer> no, <answer> 8 </answer>."), answer_in_tags("8")
    ('8', None)
    """
    found = TAGS.findall(response)
    return str(found[-1]).strip() if found else None


def answer_after_marker(response: str) -> str | None:
    """All that follows the last marker, which may be several lines.

    >>> answer_after_marker("3 + 5 = 8\\n#### 8"), answer_after_marker("8")
    ('8', None)
    """
    _, marker, after = response.rpartition(MARKER)
    return after.strip() if marker else None


FORMS: Mapping[str, tuple[str, str]] = {
    "tags": ("Write your final answer between <answer> and </answer>.", "<answer>{}</answer>"),
    "marker": (f"Write your final answer after {MARKER}.", f"{MARKER} {{}}"),
}
"""By name: what a prompt says of the answer, and how it is written."""
READERS = {"tags": answer_in_tags, "marker": answer_after_marker}


def is_harmless(task: str, answer: str) -> bool:
    """Whether the scorer of this task may see the answer.

    >>> is_harmless("countdown", "(3 + 4) * 2"), is_harmless("countdown", "exec(chr(49))")
    (True, False)
    """
    if task in LISTED:
        return _short(answer) and _LIST.fullmatch(answer) is not None and not _ATTRIBUTE.search(answer)
    if task in COUNTED:
        return _short(answer) and _SUM.fullmatch(answer) is not None
    return task not in PARSED or (_short(answer) and _is_formula(answer))


def _is_formula(answer: str) -> bool:
    known = all(len(word) == 1 or word in _NAMES for word in _WORD.findall(answer))
    plain = _FORMULA.fullmatch(answer) is not None and not _ATTRIBUTE.search(answer)
    small = len(_POWER.findall(answer)) == len(_SMALL_POWER.findall(answer))
    return known and plain and small and len(_OF_BRACKETS.findall(answer)) <= MOST_NESTED


def _short(answer: str) -> bool:
    return len(answer) <= LONGEST_EVALUATED
