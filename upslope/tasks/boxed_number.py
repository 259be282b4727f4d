r"""The number that a mathematical answer is, exactly, and its unit: rule 5 of ``upslope.tasks.boxed``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from upslope.tasks.answer import NOT_A_UNIT
from upslope.tasks.boxed_notation import marked

MAX_DIGITS = 60
"""Most digits in a row, and the largest power of ten."""
NO_UNIT = NOT_A_UNIT | {"is", "are", "was", "isn't", "wrong", "false", "maybe", "if", "when", "where", "but"}
"""Words behind a number or an expression that say something about it."""

_COMMAS = r"[1-9][0-9]{0,2}(?:,[0-9]{3})+"
_BLANKS = r"[1-9][0-9]{0,2}(?:\ [0-9]{3})+"
_DIGITS = rf"(?:{_COMMAS}|[0-9]+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)"
_PART = rf"\{{ ?-?{_DECIMAL} ?\}}"
NAME = (
    r"(?:[a-zA-Z]|\\(?!frac|sqrt)[a-zA-Z]+|[A-Z]{2,3})"
    r"(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9,]{1,9}\}))?(?:\([-+a-zA-Z0-9.,]{1,20}\))?"
)
"""What may stand in front of ``=``: x, x_1, \\theta, f(2), AB."""
_NUMBER = re.compile(
    rf"""
    (?: (?P<name>{NAME}) = )? (?P<open>[({{])? (?P<sign>[-+])?
    (?: (?P<whole>[0-9]+)? \\frac (?P<over>{_PART}) (?P<under>{_PART})
      | (?P<ones>[0-9]+) \  (?P<top>[0-9]+) / (?P<bottom>[0-9]+)
      | (?P<begin>[0-9]*) \. (?P<head>[0-9]*)
        (?: \\(?:overline|bar) \{{? (?P<again>[0-9]+) \}}?
          | \\dot \{{? (?P<first>[0-9]) \}}? (?: (?P<middle>[0-9]*) \\dot \{{? (?P<last>[0-9]) \}}? )? )
      | (?P<left>{_DECIMAL}) / (?P<right>{_DECIMAL})
      | (?P<plain>{_BLANKS}(?:\.[0-9]+)?|{_DECIMAL})
        (?: [eE] (?P<exponent>[-+]?[0-9]{{1,3}})
          | (?:\\times|\\cdot|\*) 10\^ (?: \{{ (?P<braced>-?[0-9]+) \}} | (?P<power>[0-9]) ) )?
      | 10\^ (?: \{{ (?P<braced_ten>-?[0-9]+) \}} | (?P<ten>[0-9]) )
    )
    (?P<close>[)}}])?
    (?: \\?% | \^\\circ )?
    (?P<unit> @ [@a-zA-Z/.']+ (?: \^ [0-9] )? )?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Number:
    """A number, exactly, the unit that was written behind it and the name in front of it."""

    value: Fraction
    unit: str = ""
    name: str = ""


def number_of(answer: str) -> Number | None:
    r"""The number that an answer is, or None.

    >>> number_of(r"\$1,234.50"), number_of(r"-\frac{1}{2} \text{ cm}"), number_of("16-7"), number_of("2 5")
    (Number(value=Fraction(2469, 2), unit='', name=''), Number(value=Fraction(-1, 2), unit='cm', name=''), None, None)
    """
    found = _NUMBER.fullmatch(marked(answer).removesuffix("."))
    if found is None or (found["open"] or "") + (found["close"] or "") not in ("", "()", "{}"):
        return None
    words = re.split("[@/]", (found["unit"] or "").lower())
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", answer) or not NO_UNIT.isdisjoint(words):
        return None
    value = _value(found)
    if value is None:
        return None
    unit = (found["unit"] or "").replace("@", "").removesuffix(".")
    return Number(-value if found["sign"] == "-" else value, unit, found["name"] or "")


def _value(found: re.Match[str]) -> Fraction | None:
    """Without its sign; None where there is none, as for a division by zero or a mixed number with a sign inside."""
    if found["over"]:
        over, under = _fraction(found["over"]), _fraction(found["under"])
        if under == 0 or (found["whole"] and not over > 0 < under):
            return None
        return Fraction(found["whole"] or 0) + over / under
    if found["ones"]:
        over, under = Fraction(found["top"]), Fraction(found["bottom"])
        return Fraction(found["ones"]) + over / under if over < under else None
    if found["again"] or found["first"]:
        again = found["again"] or found["first"] + (found["middle"] or "") + (found["last"] or "")
        head = found["head"]
        repeated = Fraction(head or 0) + Fraction(int(again), int("9" * len(again)))
        return Fraction(found["begin"] or 0) + repeated / Fraction("1" + "0" * len(head))
    if found["right"]:
        under = _fraction(found["right"])
        return _fraction(found["left"]) / under if under else None
    power = int(
        found["exponent"] or found["braced"] or found["power"] or found["braced_ten"] or found["ten"] or 0,
    )
    if abs(power) > MAX_DIGITS:
        return None
    return _fraction(found["plain"] or "1") * (Fraction(10**power) if power >= 0 else Fraction(1, 10**-power))


def _fraction(numeral: str) -> Fraction:
    return Fraction(numeral.strip("{} ").replace(",", "").replace(" ", ""))
