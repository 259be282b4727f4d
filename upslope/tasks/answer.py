"""The final answer of a GSM8K response, read by one small grammar and compared exactly.

The rules, in the order in which they apply:

1.  **Marker.** The *last* ``####`` of the whole response counts: it is the writer's final word, wherever it stands.
    Without a marker there is no answer; a number in the running text is never taken.
2.  **No second choice.** If the last marker carries no number, the answer is None, even if an earlier one does:
    otherwise a response could list guesses and leave the choice to the grader.
3.  **One line.** Read is the first non-blank line after the marker (so the number may stand on the next line), up to
    ``MAX_LINE`` characters; a longer line is not an answer. Lines below it are not read.
4.  **Number.** The line starts with a decimal number in ASCII digits: ``18``, ``18.50``, ``.5``, ``007``. Digits of
    other scripts, fractions (``1/2``), scientific notation (``1e5``), ``inf`` and ``nan`` are not numbers here, and
    neither is one with more than ``MAX_DIGITS`` digits.
5.  **Commas** are accepted only where they group thousands: ``1,234,567``. ``1,23``, ``12,34,567`` and ``0,123`` are
    no answers at all (they are neither 1, 123 nor 1.23).
6.  **Sign.** ``-``, ``+`` or the Unicode minus ``−`` touching the number, before or after a dollar sign. Any other
    dash, or a sign apart from its number, makes the line unreadable: a sign is never dropped. ``-0`` is ``0``.
7.  **Dollar and percent.** A ``$`` may touch the number on the left, and a ``$`` or ``%`` may follow it. Both are
    decoration: ``50%`` is 50, never 0.5 (as in the data).
8.  **Unit.** Up to four words of ASCII letters may follow after a space (``18 apples``, ``18 dollars per hour``), then
    one full stop. Anything else is refused: a second number or an expression (``18 + 2``, ``18 or 20``), a letter
    touching the number (``18k``), the words of ``REFUSED``, which hedge (``18 but maybe more``) or change the value
    (``18 thousand``, ``18 squared``), and as the last word those of ``REFUSED_LAST`` (``18 less two``, ``2 thirds``).
9.  **Canonical form.** No sign for zero and positives, no commas, no leading zeros, no trailing zeros after the point:
    ``#### $1,018.00`` reads as ``1018``.

Everything is linear in the length of the response, and no text of the response is ever evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from upslope.types import Problem, Score

MARKER = "####"
"""What announces the final answer."""
MAX_LINE = 200
"""Longest answer line, in characters."""
MAX_DIGITS = 40
"""Most digits of a number, on both sides of the point together."""

NOT_A_UNIT = frozenset(
    {"or", "and", "to", "not"}  # hedges and ranges
    | {"plus", "minus", "times", "over", "point", "negative", "half", "quarter"}  # arithmetic in words
    | {"dozen", "hundred", "thousand", "million", "billion", "trillion"}  # multipliers
)
"""Words behind a number that change it."""
REFUSED = NOT_A_UNIT | frozenset(
    {"but", "maybe", "perhaps", "possibly", "probably", "approximately", "roughly", "either", "instead", "rather"}
    | {"if", "unless", "wait", "no", "wrong", "actually"}  # hedges
    | {"divided", "multiplied", "added", "subtracted", "squared", "cubed", "doubled", "tripled", "halved"}
    | {"hundreds", "thousands", "millions", "billions", "trillions"}
)
"""The same of this grammar, which reads one line and may be stricter. ``dozens`` and ``quarters`` are units, of eggs
and coins."""
REFUSED_LAST = frozenset(
    {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen"}
    | {"fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty", "forty", "fifty", "sixty"}
    | {"seventy", "eighty", "ninety", "zero", "tens"}  # a second number
    | {"halves", "third", "thirds", "fourths", "fifths", "sixths", "sevenths", "eighths", "ninths", "tenths"}
    | {"hundredths", "thousandths"}  # fractions
    | {"k", "grand", "gross"}  # multipliers
)
"""Words that change a number if they are the last: ``18 less two``, and not ``4 five dollar bills``."""

_LINE = re.compile(
    r"""
    (?: (?P<sign>[-+\u2212])? \$? | \$ (?P<inner_sign>[-+\u2212]) )
    (?P<whole> [1-9][0-9]{0,2} (?:,[0-9]{3})+ | [0-9]* )
    (?: \. (?P<fraction>[0-9]+) )?
    (?: \ ? [$%] )?
    (?P<unit> (?: \ + [A-Za-z]+ ){0,4} )
    \ * \.?
    """,
    re.VERBOSE,
)
_ANYWHERE = re.compile(r"(?:(?<![\w)\]])[-\u2212])?\$?(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)")


def extract(response: str) -> str | None:
    """The canonical answer of a response, or None if it has none that the rules above can read.

    >>> extract("She sells 16 - 7 = 9 eggs for $2 each.\\n#### $18.00")
    '18'
    >>> extract("#### 18 or 20") is None
    True
    """
    marker = response.rfind(MARKER)
    if marker < 0:
        return None
    line = response[marker + len(MARKER) :].lstrip().partition("\n")[0].rstrip()
    return _number(line)


def same_number(a: str, b: str) -> bool:
    """Whether two answers are the same number, exactly; False if either is not a number by rules 4 to 9.

    >>> same_number("18", "18.00"), same_number("0.1", "0.10000000000000000001")
    (True, False)
    """
    left, right = _number(a.strip()), _number(b.strip())
    # Decimal construction and comparison are exact whatever the context's precision; arithmetic would not be.
    return left is not None and right is not None and Decimal(left) == Decimal(right)


def score_numbers(problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
    """1.0 where a response's answer is the problem's ``truth``, exactly, and 0.0 for anything else.

    >>> toy = Problem("toy/0", ({"role": "user", "content": "1 + 1 ="},), truth="2")
    >>> [(score.reward, score.extracted, score.lenient) for score in score_numbers([toy, toy], ["#### 2.0", "2"])]
    [(1.0, '2', 1.0), (0.0, None, 1.0)]
    """
    extracted = [extract(response) for response in responses]
    return [
        Score(float(answer is not None and same_number(answer, problem.truth)), answer, lenient(problem, response))
        for problem, response, answer in zip(problems, responses, extracted, strict=True)
    ]


def lenient(problem: Problem, response: str) -> float:
    """1.0 if the last number anywhere in the response is the problem's ``truth``, else 0.0: what a grader finds that
    does not ask for the marker."""
    answer = last_number(response)
    return float(answer is not None and same_number(answer, problem.truth))


def last_number(response: str) -> str | None:
    """The last number of a text, canonical, or None: digits with commas between them and at most one point. A minus
    counts where no digit, letter or bracket stands before it, so that 7-3 ends with 3.

    >>> last_number("16 - 7 = 9 eggs, so $1,018.50."), last_number("from -4 to 7-3"), last_number("none")
    ('1018.5', '3', None)
    """
    numbers = _ANYWHERE.findall(response)
    return _number(numbers[-1].replace(",", "").replace("$", "")) if numbers else None


def _number(line: str) -> str | None:
    """The canonical number of an answer line (rules 3 to 9)."""
    if len(line) > MAX_LINE:
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    words = match["unit"].lower().split()
    if not REFUSED.isdisjoint(words) or not REFUSED_LAST.isdisjoint(words[-1:]):
        return None
    whole, fraction = match["whole"].replace(",", ""), match["fraction"] or ""
    if not 0 < len(whole) + len(fraction) <= MAX_DIGITS:
        return None
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    negative = (match["sign"] or match["inner_sign"] or "+") in "-\u2212"
    return f"-{number}" if negative and number != "0" else number
