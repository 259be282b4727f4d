"""How each task's problems are worked out, from reasoning-gym's metadata: a list of (line, answer as far as that)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

Metadata = dict[str, Any]
Steps = list[tuple[str, str]]

EQUATION = re.compile(r"(?:(\d+) - )?(?:(\d+)\*)?[a-z](?: ([+-]) (\d+))? = (-?\d+)")
"""All that two terms and one of + - * make: ``3*x + 5``, ``x - 5``, ``5 - 3*x`` or ``15*x``, and what it equals."""


def chain_sum(metadata: Metadata) -> Steps:
    """Running totals.

    >>> chain_sum({"expression": "4 - 1 - 7"})
    [('4 - 1 = 3', '3'), ('3 - 7 = -4', '-4')]
    """
    first, *rest = metadata["expression"].split(" ")
    total = int(first)
    steps: Steps = []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        new = total + int(f"{sign}{term}")
        steps.append((f"{total} {sign} {term} = {new}", str(new)))
        total = new
    return steps


def simple_equations(metadata: Metadata) -> Steps:
    """The term goes to the right, then the factor.

    >>> simple_equations({"equation": "56 - 98*e = -1218", "variable": "e"})
    [('98*e = 56 - -1218 = 1274', '1274'), ('e = 1274 / 98 = 13', '13')]
    """
    found = EQUATION.fullmatch(metadata["equation"])
    if found is None:
        raise ValueError(f"cannot read the equation {metadata['equation']!r}")
    left, factor, sign, term, right = found.groups()
    unknown, value = metadata["variable"], int(right)
    steps: Steps = []
    scaled = f"{factor}*{unknown}" if factor else unknown
    if left:
        value = int(left) - value
        steps.append((f"{scaled} = {left} - {right} = {value}", str(value)))
    elif term:
        value = value - int(term) if sign == "+" else value + int(term)
        steps.append((f"{scaled} = {right} {'-' if sign == '+' else '+'} {term} = {value}", str(value)))
    if factor:
        steps.append((f"{unknown} = {value} / {factor} = {value // int(factor)}", str(value // int(factor))))
    return steps


def count_bits(metadata: Metadata) -> Steps:
    """The largest power of two is taken away, until nothing is left.

    >>> count_bits({"number": 20})
    [('20 - 16 = 4', '1'), ('4 - 4 = 0', '2')]
    """
    rest = metadata["number"]
    steps: Steps = []
    while rest:
        bit = 1 << (rest.bit_length() - 1)
        steps.append((f"{rest} - {bit} = {rest - bit}", str(len(steps) + 1)))
        rest -= bit
    return steps


def spell_backward(metadata: Metadata) -> Steps:
    """The letters, then from the last on.

    >>> spell_backward({"word": "sun"})
    [('s u n', 'sun'), ('n u s', 'nus')]
    """
    word = metadata["word"]
    return [(" ".join(word), word), (" ".join(word[::-1]), word[::-1])]


class Worked(NamedTuple):
    """What is written of a task beside its questions."""

    steps: Callable[[Metadata], Steps]
    content: Callable[[Metadata], object]
    """What makes a problem the same as another, in whatever words and with whatever name for the unknown."""
    told: str
    """How a text tells the answer."""


WORKED: dict[str, Worked] = {
    "chain_sum": Worked(chain_sum, lambda m: m["expression"], "It comes to {answer}."),
    "simple_equations": Worked(
        simple_equations, lambda m: re.sub("[a-z]", "x", m["equation"]), "So the unknown is {answer}."
    ),
    "count_bits": Worked(count_bits, lambda m: m["number"], "There are {answer} bits."),
    "spell_backward": Worked(spell_backward, lambda m: m["word"], "Backward it is {answer}."),
}
