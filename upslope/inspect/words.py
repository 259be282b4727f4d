"""Text for people: what a model wrote made harmless, numbers, durations and small charts of block characters."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

# Everything a terminal may obey or hide: C0 and C1 controls (escape sequences begin with one), zero-width and
# bidirectional marks (they can reorder what is read), line separators, lone surrogates (they cannot be encoded), tags.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
_BLOCKS = " ▁▂▃▄▅▆▇█"


def visible(text: str) -> str:
    """``text`` with nothing left that acts on a terminal: controls become their pictures, other marks ``�``.

    >>> visible("a\\x1b[31mb\\tc")
    'a␛[31mb    c'
    """
    return _UNSAFE.sub(_picture, text.replace("\r\n", "\n"))


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code == 0x09:
        return "    "
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "�"


def shorten(text: str, num_chars: int) -> str:
    """At most ``num_chars`` characters, cut in the middle: a problem begins and an answer ends a text.

    >>> shorten("abcdefghij", 5)
    'ab…ij'
    """
    if len(text) <= num_chars:
        return text
    tail = (num_chars - 1) // 2
    return text[: num_chars - 1 - tail] + "…" + text[len(text) - tail :]


def duration(seconds: float) -> str:
    """Minutes and seconds, and hours from one hour on.

    >>> duration(42.4), duration(3723), duration(float("nan"))
    ('0:42', '1:02:03', '?')
    """
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.4125), percent(float("nan"))
    ('41.2 %', '?')
    """
    return f"{100 * share:.1f} %" if math.isfinite(share) else "?"


def chart(values: Sequence[float], width: int, height: int = 1) -> list[str]:
    """A bar chart of ``height`` lines, top first, from the least value (a sliver) to the greatest (full).

    More values than ``width`` are averaged in equal bins; what is not finite is left out (a gap where a bin has
    nothing else).

    >>> chart([0.0, 0.5, 1.0], width=3)
    ['▁▅█']
    """
    num_bins = min(len(values), max(width, 1))
    edges = [round(i * len(values) / num_bins) for i in range(num_bins + 1)] if num_bins else []
    bins = [[v for v in values[a:b] if math.isfinite(v)] for a, b in pairwise(edges)]
    means = [math.fsum(part) / len(part) if part else math.nan for part in bins]
    seen = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(seen), max(seen)) if seen else (0.0, 0.0)
    levels = [
        0 if math.isnan(mean) else 1 + round((mean - low) / ((high - low) or 1.0) * (8 * height - 1)) for mean in means
    ]
    return ["".join(_BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels) for row in reversed(range(height))]
