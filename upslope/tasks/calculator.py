"""The calculator of GSM8K's annotations: when somebody has written ``<<3*6=``, it writes ``18>>``.

Cobbe et al. 2021 (arXiv 2110.14168, appendix C) put the annotations into the solutions for this. The grammar is small
and nothing is evaluated as code::

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/") factor)*
    factor  = ("+" | "-") factor | "(" sum ")" | number
    number  = digits ["." digits] | "." digits        ASCII digits, no commas

Spaces may stand anywhere but in a number. Arithmetic is exact, on fractions. A result is written as a decimal number
without needless zeros: ``0.5``, ``18``, ``-3``. One that no decimal number is (``10/3``), that has more than
``MAX_DIGITS`` digits, a division by zero, and anything outside the grammar have no result: the calculator is silent,
and whoever writes goes on alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from upslope.tasks.episode import Episode

OPEN, EQUALS, CLOSE = "<<", "=", ">>"
MAX_LENGTH = 100
"""Longest expression, in characters: it also bounds how deep brackets go, and how large numbers get."""
MAX_DIGITS = 20
"""Most digits of a result, on both sides of the point together, without zeros before the first other digit; and most
places after the point."""

_TOKEN = re.compile(r" *(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(?P<sign>[-+*/()]))")
_ANNOTATION = re.compile(r"<<(?P<expression>[^<>=\n]*)=(?P<result>[^<>=\n]*)>>")


class _Silent(Exception):
    """The expression has no value that can be written."""


class Calculator(Episode):
    """The ``Episode`` of an attempt that may calculate; it remembers nothing, so one serves all.

    >>> Calculator().reply("He has 3*6 = <<3*6=")
    '18>>'
    >>> Calculator().reply("So x ="), Calculator().reply("<<10/3=")
    (None, '')
    """

    stops: Sequence[str] = (EQUALS,)

    def reply(self, text: str) -> str | None:
        """The result and ``>>``; "" if there is none, or if more than ``=`` was written in one token; None if no
        annotation is open."""
        asked = _asked(text)
        result = value_of(asked[0]) if asked is not None and not asked[1] else None
        if result is not None:
            return result + CLOSE
        return None if asked is None else ""


def _asked(text: str) -> tuple[str, str] | None:
    """What stands in an annotation that is still open before its first ``=``, and after it."""
    _, opened, inside = text.rpartition(OPEN)
    expression, equals, rest = inside.partition(EQUALS)
    return (expression, rest) if opened and equals and not set(inside) & set("<>\n") else None


def value_of(source: str) -> str | None:
    """The exact value as a decimal number, or None.

    >>> value_of("80/100*10"), value_of("(2 + .5) * -3"), value_of("1/0"), value_of("2**9")
    ('8', '-7.5', None, None)
    """
    if len(source) > MAX_LENGTH:
        return None
    try:
        parts = _Parts(source)
        value = _sum(parts)
        return _decimal(value) if parts.next is None else None
    except _Silent:
        return None


def filled(solution: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A worked solution as it comes out when the calculator writes every result it knows, and where it wrote:
    (begin, end) in characters. Annotations that it would leave to the writer stay as they are.

    >>> filled("<<1/2=.50>>half, <<10/3=3.3>>3.3")
    ('<<1/2=0.5>>half, <<10/3=3.3>>3.3', ((6, 11),))
    """
    text, spans, end = "", [], 0
    for match in _ANNOTATION.finditer(solution):
        text += solution[end : match.start("result")]
        end = match.start("result")
        reply = Calculator().reply(text)
        if reply:
            spans.append((len(text), len(text) + len(reply)))
            text, end = text + reply, match.end()
    return text + solution[end:], tuple(spans)


class _Parts:
    """The numbers and signs of an expression, one after the other."""

    def __init__(self, source: str) -> None:
        self._found = self._read(source)
        self.next: str | None = next(self._found, None)

    def _read(self, source: str) -> Iterator[str]:
        source, at = source.rstrip(" "), 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if match is None:
                raise _Silent
            at = match.end()
            yield match["number"] or match["sign"]

    def take(self) -> str:
        taken = self.next
        if taken is None:
            raise _Silent
        self.next = next(self._found, None)
        return taken


def _sum(parts: _Parts) -> Fraction:
    value = _product(parts)
    while parts.next in ("+", "-"):
        value += _product(parts) if parts.take() == "+" else -_product(parts)
    return value


def _product(parts: _Parts) -> Fraction:
    value = _factor(parts)
    while parts.next in ("*", "/"):
        if parts.take() == "*":
            value *= _factor(parts)
        else:
            divisor = _factor(parts)
            if not divisor:
                raise _Silent
            value /= divisor
    return value


def _factor(parts: _Parts) -> Fraction:
    part = parts.take()
    if part in ("+", "-"):
        return _factor(parts) if part == "+" else -_factor(parts)
    if part == "(":
        value = _sum(parts)
        if parts.take() != ")":
            raise _Silent
        return value
    if part in ("*", "/", ")"):
        raise _Silent
    return Fraction(part)


def _decimal(value: Fraction) -> str:
    """The fraction as a decimal number; raises ``_Silent`` where none is exactly equal."""
    places, rest = 0, value.denominator
    while rest > 1:
        step = next((p for p in (10, 2, 5) if rest % p == 0), None)
        if step is None or places == MAX_DIGITS:
            raise _Silent
        rest, places = rest // step, places + 1
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    if len(digits.lstrip("0")) > MAX_DIGITS:
        raise _Silent
    point = len(digits) - places
    return ("-" if value < 0 else "") + digits[:point] + ("." + digits[point:] if places else "")
