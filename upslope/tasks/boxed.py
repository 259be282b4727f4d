r"""The final answer of a mathematical response, ``\boxed{...}``, and when two such answers are the same.

What is the answer:

1.  **The last box counts**: ``\boxed{...}`` or ``\fbox{...}``, braces balanced. Without one there is no answer; neither
    is an empty one, one that is not closed, or one of more than ``MAX_ANSWER`` characters. Text outside is never read.
2.  **Notation is no difference**: dollars, blanks, ``\left``, ``\dfrac`` for ``\frac``, ``\text{...}`` around words, a
    full stop at the end.

When it is right, in this order:

3.  **Written alike** (by rule 2) is right.
4.  **Words** (a truth in ``\text{...}``) are right only if written alike; case, and brackets around all, do not count.
5.  **Numbers** are compared exactly: integers with or without thousands' commas, decimals, fractions (``\frac{1}{2}``,
    ``1/2``), mixed numbers, ``3 \times 10^5``. 0.5 is 1/2, and 0.333 is not 1/3. A percent sign, a degree, a currency
    or ``x =`` in front is decoration. A unit is words in ``\text{...}`` or behind a blank. It may be left out; if both
    have one it must be the same; a word that changes the value (``18 thousand``) is none. Where the truth is a number
    the answer must be one: neither ``16-7`` nor ``3^2`` is 9, or a policy would learn to leave sums undone.
6.  **All else** (roots, sets, intervals, tuples, matrices, polynomials) is for math-verify to say
    (``upslope.tasks.expressions``), in a process that can be killed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from upslope.tasks.answer import NOT_A_UNIT

MAX_ANSWER = 500
"""Longest answer, in characters."""
MAX_DIGITS = 60
"""Most digits in a row, and the largest power of ten."""

_BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{")
_DROPPED = re.compile(
    r"\\?[$\u00a3\u20ac]|\\pounds|\\[()\[\]!,;:> ]|~|\\(?:left|right|displaystyle|bigl?|bigr)(?![a-zA-Z])"
)
_WORDS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_ALL_WORDS = re.compile(rf"(?:{_WORDS.pattern})+\.?")
_UNIT = re.compile(r"(?<=[0-9}%])[ ~]+(?=[a-zA-Z]{2})")
_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_PART = rf"(?:\{{-?{_DECIMAL}\}}|[0-9])"
_NUMBER = re.compile(
    rf"""
    (?:[a-zA-Z]=)? (?P<sign>[-+\u2212])?
    (?: (?P<whole>[0-9]+)? \\frac (?P<over>{_PART}) (?P<under>{_PART})
      | (?P<left>{_DECIMAL}) (?: / (?P<right>{_DECIMAL}) )?
        (?: (?:\\times|\\cdot) 10\^ (?: \{{ (?P<braced>-?[0-9]+) \}} | (?P<power>[0-9]) ) )?
    )
    (?: \\?% | \^ (?: \\circ | \{{\\circ\}} ) | \\degree )?
    (?P<unit> @ [@a-zA-Z/]+ (?: \^ \{{? [0-9] \}}? )? )?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number, exactly, and the unit that was written behind it."""

    value: Fraction
    unit: str = ""


def boxed(response: str) -> str | None:
    r"""The content of the last box, or None.

    >>> boxed(r"so \boxed{1}, no, $\boxed{\frac{1}{2}}$."), boxed(r"\boxed{}"), boxed(r"\boxed{1")
    ('\\frac{1}{2}', None, None)
    """
    boxes = list(_BOX.finditer(response))
    if not boxes:
        return None
    last = boxes[-1]
    depth, escaped = 1, False
    for place in range(last.end(), min(len(response), last.end() + MAX_ANSWER + 1)):
        character = response[place]
        if not escaped and character in "{}":
            depth += 1 if character == "{" else -1
            if not depth:
                return response[last.end() : place].strip() or None
        escaped = character == "\\" and not escaped
    return None


def plainly(answer: str) -> str:
    r"""Without what is only notation (rule 2).

    >>> plainly(r"$\left( \dfrac{1}{2}, 3 \text{ cm} \right)$.")
    '(\\frac{1}{2},3cm)'
    """
    text = answer.strip().removesuffix(".")
    text = _WORDS.sub(lambda words: words[1], text)
    text = _DROPPED.sub("", text.replace("{,}", ","))
    text = re.sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac", text)
    return "".join(text.split()).removesuffix(".")


def number_of(answer: str) -> Number | None:
    r"""The number that an answer is (rule 5), or None.

    >>> number_of(r"\$1,234.50"), number_of(r"-\frac{1}{2} \text{ cm}"), number_of("16-7")
    (Number(value=Fraction(2469, 2), unit=''), Number(value=Fraction(-1, 2), unit='cm'), None)
    """
    marked = _WORDS.sub(lambda words: "@" + "@".join(words[1].split()), answer)
    found = _NUMBER.fullmatch(plainly(_UNIT.sub("@", marked)))
    if found is None or re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", answer):
        return None
    unit = re.split("[@/]", found["unit"] or "")
    if not NOT_A_UNIT.isdisjoint(word.lower() for word in unit):
        return None
    part = {name: Fraction(text.strip("{}").replace(",", "") or 0) for name, text in _numerals(found).items()}
    if part.get("under") == 0 or part.get("right") == 0 or abs(part.get("power", Fraction(0))) > MAX_DIGITS:
        return None
    if found["over"]:
        value = part.get("whole", Fraction(0)) + part["over"] / part["under"]
        if found["whole"] and not part["over"] > 0 < part["under"]:
            return None
    else:
        value = part["left"] / part.get("right", Fraction(1)) * Fraction(10) ** int(part.get("power", Fraction(0)))
    return Number(-value if found["sign"] in ("-", "\u2212") else value, (found["unit"] or "").replace("@", ""))


def _numerals(found: re.Match[str]) -> dict[str, str]:
    names = ("whole", "over", "under", "left", "right", "power")
    parts = {name: found[name] for name in names if found[name] is not None}
    return parts | ({"power": found["braced"]} if found["braced"] else {})


def is_words(answer: str) -> bool:
    r"""Whether an answer is text and no formula: all of it in ``\text{...}``.

    >>> is_words(r"\text{Evelyn}"), is_words(r"3 \text{ cm}")
    (True, False)
    """
    return _ALL_WORDS.fullmatch(answer.strip()) is not None


def same_answer(truth: str, answer: str) -> bool | None:
    """Whether an answer is right by rules 3 to 5; None where these do not say (rule 6)."""
    left, right = plainly(truth), plainly(answer)
    if left == right:
        return True
    if is_words(truth):
        return left.strip("()").casefold() == right.strip("()").casefold()
    known, given = number_of(truth), number_of(answer)
    if known is None:
        return None
    if given is None or known.value != given.value:
        return False
    return not (known.unit and given.unit) or known.unit == given.unit
