r"""The final answer of a mathematical response, ``\boxed{...}``, and when two such answers are the same.

What is the answer:

1.  **The last box counts**: ``\boxed{...}`` or ``\fbox{...}``, braces balanced, or ``\boxed`` before one digit, letter
    or command with its arguments (``\boxed\frac12``). Without one there is no answer; neither is one that holds nothing
    but notation, one that is not closed, or one of more than ``MAX_ANSWER`` characters. Text outside is never read.
2.  **Notation is no difference**: dollars, blanks, ``\left``, ``\dfrac`` or ``\over`` for ``\frac``, ``x^{2}`` for
    ``x^2``, fonts, braces around all, ``\text{...}`` around words, a full stop at the end, any minus sign. A blank
    between two digits is kept: ``2 5`` is not 25.

When it is right, in this order:

3.  **Words** (a truth in ``\text{...}``, or one of nothing but words of several letters) are right only if written
    alike; case, and brackets around all, do not count.
4.  **Written alike** (by rule 2) is right.
5.  **Numbers** are compared exactly: integers with or without commas or blanks between groups of three, decimals,
    repeating ones too (``0.1\overline{6}``, ``0.\dot{3}``), fractions (``\frac{1}{2}``, ``1/2``), mixed numbers
    (``1 1/2``), ``3 \times 10^5``, ``3e5``, ``10^{-5}``. 0.5 is 1/2, and 0.333 is not 1/3. A percent sign, a degree, a
    currency, brackets around it or a name and ``=`` in front are decoration. A unit is words in ``\text{...}``, or
    behind a blank if they are known or can be spoken (``5 xy`` is a product). Unit and name may be left out; if both
    have one it must be the same; a word that changes the value (``18 thousand``) or judges it (``18 is wrong``) is no
    unit. Where the truth is a number the answer must be one: neither ``16-7`` nor ``3^2`` is 9, or a policy would learn
    to leave sums undone.
6.  **Of another kind is wrong** (``upslope.tasks.boxed_shape``): brackets, equations, relations, primes, words.
7.  **All else** (roots, sets, intervals, tuples, matrices, polynomials) is for math-verify to say
    (``upslope.tasks.expressions``), in a process that can be killed.
"""

from __future__ import annotations

import re

from upslope.tasks.boxed_notation import closing, in_text, plainly
from upslope.tasks.boxed_number import number_of
from upslope.tasks.boxed_shape import comparable

MAX_ANSWER = 500
"""Longest answer, in characters."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?=[{\\0-9])|(?=[a-zA-Z](?![a-zA-Z0-9]))(?<=\s))")
_BARE_WORDS = re.compile(r"[a-zA-Z][a-z]{3,}|[a-zA-Z][a-z]+(?: [a-zA-Z][a-z]+)+")


def boxed(response: str) -> str | None:
    r"""The content of the last box, or None.

    >>> boxed(r"so \boxed{1}, no, $\boxed{\frac{1}{2}}$."), boxed(r"\boxed{}"), boxed(r"\boxed{1")
    ('\\frac{1}{2}', None, None)
    """
    boxes = list(_BOX.finditer(response))
    if not boxes:
        return None
    text = response[boxes[-1].end() :][: MAX_ANSWER + 2]
    if text.startswith("{"):
        end = closing(text, 0)
        inside = text[1:end].strip() if end is not None else ""
    else:
        inside = _token(text)
    return inside if plainly(inside) else None


def _token(text: str) -> str:
    r"""What ``\boxed`` takes without braces: a digit or letter alone, or a command with its arguments; else nothing."""
    command = re.match(r"\\[a-zA-Z]+", text)
    if command is None:
        alone = re.match(r"[0-9a-zA-Z](?![0-9a-zA-Z]|[.,/][0-9])", text)
        return alone[0] if alone else ""
    fraction, end = command[0].endswith("frac"), command.end()
    for _ in range(2):
        start = end + len(text[end:]) - len(text[end:].lstrip()) if fraction else end
        if text.startswith("{", start):
            close = closing(text, start)
            if close is None:
                return ""
            end = close + 1
        elif fraction and text[start : start + 1].isalnum():
            end = start + 1
    return text[:end]


def is_words(answer: str) -> bool:
    r"""Whether an answer is text and no formula: all of it in ``\text{...}``, or words of several letters.

    >>> is_words(r"\text{Evelyn}"), is_words("no solution"), is_words(r"3 \text{ cm}"), is_words("xy")
    (True, True, False, False)
    """
    if _BARE_WORDS.fullmatch(answer.strip().removesuffix(".")):
        return True
    return in_text(answer) and number_of(answer) is None


def same_answer(truth: str, answer: str) -> bool | None:
    """Whether an answer is right by rules 3 to 6; None where these do not say (rule 7)."""
    left, right = plainly(truth), plainly(answer)
    if not right:
        return False
    if is_words(truth):
        return left.strip("()").casefold() == right.strip("()").casefold()
    known, given = number_of(truth), number_of(answer)
    if left == right and (known is None or given is not None or "," not in right):  # "1, 234" is a list, not 1,234
        return True
    if known is None:
        return None if comparable(truth, answer) else False
    if given is None or known.value != given.value:
        return False
    units = not (known.unit and given.unit) or known.unit == given.unit
    return units and (not (known.name and given.name) or known.name == given.name)
