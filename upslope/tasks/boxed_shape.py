r"""What two expressions must share before anybody compares their values: rule 6 of ``upslope.tasks.boxed``.

math-verify reads what it can of an expression and passes over the rest, so that ``2\sqrt{3} \text{ is wrong}`` were
``2\sqrt3``. An answer is wrong, unless it is written as the truth is, if it has

-   other brackets: ``(1,2)``, ``[1,2)``, ``\{1,2\}`` are three kinds, and a bare list ``1,2`` is one with a set;
-   an ``=`` more than the truth, save behind one name (``f(x) = 2x+3``) that is no variable of the truth and not
    another name than the truth's; or a relation (``<``, ``\approx``, ``\in``) that the truth has not;
-   other words than the truth, save a unit at the end, a known one or the truth's own, which may be left out (if both
    have one it must be the same);
-   a prime that the truth has not;
-   braces that are not balanced;
-   a numeral with a base (``101_2``), or none where the truth has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from upslope.tasks.boxed_notation import UNITS, is_balanced, with_words
from upslope.tasks.boxed_number import NAME, NO_UNIT, number_of

FUNCTIONS = frozenset(("sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "min", "max", "gcd", "lcm", "mod"))
"""What stands in formulas as a word, with its backslash or without."""

_SPECIAL = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
_RELATION = re.compile(
    r"<|>|\\(?:le|ge|lt|gt|ne|approx|sim|simeq|cong|equiv|propto|in|ni|notin|subset|subseteq|to|rightarrow|Rightarrow"
    r"|implies|iff|leftrightarrow|Leftrightarrow|mapsto|lor|vee|land|wedge)(?![a-zA-Z])"
)
_ORDER = frozenset(("<", ">", r"\le", r"\ge", r"\lt", r"\gt"))
_TAIL = re.compile(r"(@[a-zA-Z@/.]+)(?:\^[0-9])?$")
_NAMED = re.compile(rf"({NAME}) ?= ?")
_BASED = re.compile(r"[0-9] ?\)? ?_")
_BARE = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{2,}")
_ASIDE = re.compile(r'\\\\|[;:?&#"]')
_OPENING, _CLOSING = ("(", "[", r"\{", "{"), (")", "]", r"\}", "}")


def comparable(truth: str, answer: str) -> bool:
    r"""Whether the values of the two may be compared.

    >>> comparable("(1,2)", "(1, 4/2)"), comparable("(1,2)", "[1,2)"), comparable(r"2\sqrt3", r"2\sqrt3 \approx 77")
    (True, False, False)
    """
    known, known_unit = _without_unit(with_words(truth))
    given, given_unit = _without_unit(with_words(answer), UNITS.union(re.findall("[a-z]+", _tail(truth))))
    if not is_balanced(answer) or (known_unit and given_unit and known_unit != given_unit):
        return False
    known_name, (given_name, rest) = _unnamed(known)[0], _unnamed(given)
    variables = re.findall(r"\\[a-zA-Z]+|[a-zA-Z]", re.sub("@[a-zA-Z@]+", " ", known))
    if known_name and given_name and known.count("=") == 1 and known_name != given_name:
        return False
    if given_name and "=" not in known:
        if given_name in variables:
            return False
        given = rest
    if given.count("=") > known.count("=") or not _relations(given) <= _relations(known):
        return False
    spoken = {word for word in _spoken(given) if not set(word) <= set(variables)}
    if _said(given) != _said(known) or spoken or _BASED.search(known) or _BASED.search(given):
        return False
    if _primes(given) != _primes(known) or not set(_ASIDE.findall(given)) <= set(_ASIDE.findall(known)):
        return False
    return _same_brackets(known, given)


def readable(truth: str, answer: str) -> str:
    r"""The answer as math-verify is to read it: no name or unit that the truth has not, and every decimal a fraction,
    as no decimal is ever equal to an irrational number.

    >>> readable(r"2\pi", r"A = 2 \pi \text{ cm}"), readable(r"\pi", "-3.14"), readable("x/2", "0.5x")
    ('2 \\pi ', '\\frac{-157}{50}', '\\frac{5}{10}x')
    """
    number = number_of(answer)
    if number is not None:
        return rf"\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"
    text, _ = _without_unit(with_words(answer))
    if "=" not in truth:
        text = _unnamed(text)[1]
    if "@" in text:
        return answer
    return re.sub(r"(?<![0-9.\\])[0-9]*\.[0-9]+(?![0-9.])", _as_fraction, text)


def coordinates(expression: str) -> list[str] | None:
    r"""What a tuple or an interval holds, in order; None for all else.

    >>> coordinates("(1, f(2,3))"), coordinates("(1)"), coordinates("(1,2)(3,4)"), coordinates(r"\{1,2\}")
    (['1', 'f(2,3)'], None, None, None)
    """
    kind, parts = _shape(_without_unit(with_words(expression))[0])
    if any("@" in part for part in parts):
        return None
    return [part.strip() for part in parts] if kind and kind[0] in "([" and len(parts) > 1 else None


def _without_unit(text: str, units: Iterable[str] | None = None) -> tuple[str, str]:
    """The text, and the words at its end if all are such units: any words but those that judge, unless given."""
    tail = _TAIL.search(text)
    words = set(re.findall("[a-z]+", tail[1].lower())) if tail else set()
    if tail is None or not (words.isdisjoint(NO_UNIT) if units is None else words <= set(units)):
        return text, ""
    return text[: tail.start()], tail[0].replace("@", "").rstrip(".")


def _tail(expression: str) -> str:
    """Its words at the end, in small letters."""
    found = _TAIL.search(with_words(expression))
    return found[0].lower() if found else ""


def _unnamed(text: str) -> tuple[str, str]:
    """The name in front, and the text without it; ``x = 1, x = 2`` has it twice."""
    named = _NAMED.match(text)
    if named is None:
        return "", text
    return named[1], re.sub(rf"(^|, ?){re.escape(named[1])} ?= ?", r"\1", text)


def _relations(text: str) -> set[str]:
    """Orders are one kind, as ``2 \\le x`` is ``x \\ge 2``."""
    return {"<" if relation in _ORDER else relation for relation in _RELATION.findall(text)}


def _said(text: str) -> set[str]:
    """Its words: marked ones, and bare ones that judge."""
    return {word.lower() for word in re.findall("@([a-zA-Z]+)", text)} | (_bare(text) & NO_UNIT)


def _spoken(text: str) -> set[str]:
    """Bare words that can be spoken and are no function: words, or products of the truth's variables."""
    return {word for word in _bare(text) if len(word) > 2 and re.search("[aeiou]", word.lower())} - FUNCTIONS


def _bare(text: str) -> set[str]:
    return set(_BARE.findall(re.sub(r"@[a-zA-Z@]+|\\(?:begin|end) ?\{[a-z]+\}", " ", text)))


def _primes(text: str) -> int:
    return text.count("'") + text.count(r"\prime")


def _as_fraction(numeral: re.Match[str]) -> str:
    head, _, tail = numeral[0].partition(".")
    return rf"\frac{{{int(head + tail)}}}{{{10 ** len(tail)}}}"


def _same_brackets(known: str, given: str) -> bool:
    left, parts = _shape(known)
    right, others = _shape(given)
    if len(parts) == 1 and left != r"\{\}":
        return len(others) == 1 or right[:1] in ("(", "[") or r"\pm" in known
    return {left, right} <= {"", r"\{\}"} or left == right


def _shape(text: str) -> tuple[str, list[str]]:
    """The brackets around all of an expression ("" for none), and what stands between its commas."""
    tokens = _SPECIAL.findall(text)
    kind, inner = "", tokens
    if len(tokens) > 1 and tokens[0] in _OPENING and tokens[-1] in _CLOSING and _closes_last(tokens):
        kind, inner = tokens[0] + tokens[-1], tokens[1:-1]
    depth, parts = 0, [""]
    for token in inner:
        depth += (token in _OPENING) - (token in _CLOSING)
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return (kind, parts) if len(parts) > 1 or kind == r"\{\}" else ("", [text])


def _closes_last(tokens: list[str]) -> bool:
    depth = 0
    for place, token in enumerate(tokens):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0:
            return place == len(tokens) - 1
    return False
