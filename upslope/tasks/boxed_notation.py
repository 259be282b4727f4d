r"""Mathematical answers without what is only notation: how two of them are compared as texts (``upslope.tasks.boxed``).

A blank is anything that TeX sets as one, and what shows nothing: dollars, ``\,``, ``\left``, ``\bf``. One between two
digits is kept, as ``2 5`` is not 25; every other is dropped.
"""

from __future__ import annotations

import re

_MEASURES = (
    "mm cm dm m km in inch inches ft foot feet yd yard yards mi mile miles unit units square sq cubic cu per "
    "ms s sec second seconds min minute minutes h hr hour hours day days week weeks month months year years "
    "mg g kg gram grams kilogram kilograms lb lbs pound pounds oz ounce ounces ton tons ml l liter liters litre litres "
    "meter meters metre metres centimeter centimeters centimetre centimetres kilometer kilometers millimeter "
    "millimeters degree degrees deg rad radian radians percent dollar dollars cent cents euro euros mph n j w v pa hz"
)
UNITS = frozenset(_MEASURES.split())
"""Units of measure. Other words too are units behind a number, and none behind another expression."""

_CHARACTERS = (
    {ord(minus): "-" for minus in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"}
    | {ord(name): rf"\{word} " for name, word in zip("\u00d7\u00b7\u22c5", ("times", "cdot", "cdot"), strict=True)}
    | {0xB0: r"^\circ ", 0x2205: r"\emptyset ", 0x3C0: r"\pi ", 0x221E: r"\infty "}
    | {0x2264: r"\le ", 0x2265: r"\ge ", 0x2260: r"\ne ", 0x2248: r"\approx ", 0x2208: r"\in ", 0x2032: "'"}
)
_BLANK = re.compile(
    r"(\\\\)"  # the end of a row of a matrix is none
    r"|\\?[$\u00a3\u20ac]|\\pounds(?![a-zA-Z])|\\[()\[\],;:> ]|~"
    r"|\\(?:left|right|displaystyle|textstyle|bigl?|bigr|quad|qquad|bf|rm|it)(?![a-zA-Z])"
)
_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|up|normal)?|math(?:rm|bf|it|sf)|mbox|hbox)"
_WORDS = re.compile(rf"{_TEXT}\s*\{{([^{{}}]*)\}}")
_LETTER = re.compile(r"\\math(?:rm|bf|it|sf)\s*\{\s*([a-zA-Z])\s*\}")
_BEHIND = re.compile(r"(?:(?<=[0-9}%.])|(?<=\\pi)) ([a-zA-Z]{2,})(?![a-zA-Z])")
_SAID = re.compile(r"@[a-zA-Z ]+")
_SAME = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\{([^{}]*)\\over(?![a-zA-Z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac(?![a-zA-Z]) *(\{[^{}]*\}|[0-9a-zA-Z]) *(\{[^{}]*\}|[0-9a-zA-Z])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\{\{([^{}]*)\}\}"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})\{\{([^{}]*)\}\}"), r"\1{\2}"),
    (re.compile(r"([_^]) *\{ *([0-9a-zA-Z]|\\circ) *\}"), r"\1\2"),
    (re.compile(r"\\degree(?![a-zA-Z])"), r"^\\circ"),
    (re.compile(r"\\varnothing(?![a-zA-Z])|\\\{ *\\\}"), r"\\emptyset"),
    (re.compile(r"\\(le|ge|ne)q(?:slant)?(?![a-zA-Z])"), r"\\\1"),
)


def tidied(answer: str) -> str:
    r"""One notation of several, and one blank for what shows nothing; all else, and so the meaning, is kept.

    >>> tidied(r"$\left( \dfrac 12, \, 3^{2} \right)$.")
    '( \\frac{1}{2}, 3^2 )'
    """
    text = answer.translate(_CHARACTERS).replace("{,}", ",")
    text = re.sub(r"\\!\s*", "", text)
    text = " ".join(_BLANK.sub(lambda found: found[1] or " ", text).split())
    for pattern, plain in _SAME:
        text = pattern.sub(plain, text)
    return _unwrapped(text.removesuffix(".").strip())


def plainly(answer: str) -> str:
    r"""Without what is only notation (rule 2): two answers with the same are written alike.

    >>> plainly(r"$\left( \dfrac{1}{2}, 3 \text{ cm} \right)$."), plainly(r"2\,5")
    ('(\\frac{1}{2},3cm)', '2 5')
    """
    text = tidied(_WORDS.sub(r"\1", answer))
    return re.sub(r"(?<![0-9.]) | (?![0-9.])", "", text).removesuffix(".")


def with_words(answer: str) -> str:
    r"""Tidied, with ``@`` before each word in ``\text{...}`` or behind a number.

    >>> with_words(r"5 \text{ square cm}"), with_words("5 apples"), with_words("5 xy"), with_words(r"2 \pi \text{5}")
    ('5 @square@cm', '5@apples', '5 xy', '2 \\pi 5')
    """
    text = _BEHIND.sub(_mark_unit, tidied(_WORDS.sub(_mark, _LETTER.sub(r"\1", answer))))
    return _SAID.sub(lambda words: "@".join(words[0].split()), text)


def marked(answer: str) -> str:
    r"""The same without blanks, save between digits and behind commas.

    >>> marked(r"5 \text{ square cm}"), marked("1, 234"), marked("1 1 / 2")
    ('5@square@cm', '1, 234', '1 1/2')
    """
    return re.sub(r"(?<![0-9.,]) | (?![0-9.])", "", with_words(answer))


def in_text(answer: str) -> bool:
    r"""Whether all of an answer is in ``\text{...}``.

    >>> in_text(r"\text{Evelyn}."), in_text(r"3 \text{ cm}")
    (True, False)
    """
    return _WORDS.search(answer) is not None and not _WORDS.sub("", answer).strip(" .$")


def _mark(words: re.Match[str]) -> str:
    inner = words[1].strip()
    return "@" + "@".join(inner.split()) + " " if inner[:1].isalpha() else f" {inner} "


def _mark_unit(word: re.Match[str]) -> str:
    """Letters behind a number are a unit if they are a known one or can be spoken; else they are a product."""
    known = word[1].lower() in UNITS or (len(word[1]) > 2 and re.search("[aeiou]", word[1].lower()))
    return f"@{word[1]}" if known else word[0]


def _unwrapped(text: str) -> str:
    """Without braces around all of it."""
    while text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def closing(text: str, start: int) -> int | None:
    """The place of the brace that closes the one at ``start``, or None. A brace behind a backslash is none."""
    depth, escaped = 0, False
    for place in range(start, len(text)):
        if not escaped and text[place] in "{}":
            depth += 1 if text[place] == "{" else -1
            if depth <= 0:
                return place if depth == 0 else None
        escaped = text[place] == "\\" and not escaped
    return None


def is_balanced(text: str) -> bool:
    """Whether each brace has its other."""
    return closing("{" + text + "}", 0) == len(text) + 1
