"""Plain data between two processes of which one is not to be believed: JSON with tags, never pickle.

What travels: None, bool, int of any size, float (nan, inf and -0.0 too), complex, str, bytes, bytearray, list, tuple,
set, frozenset, dict, range, ``...``, the types of these; deque, Counter, OrderedDict, defaultdict (without its
factory), Decimal, Fraction, date, time, datetime, timedelta. An object of a subclass of one of them (a namedtuple, an
IntEnum, ``class Text(str)``) arrives as the plain one, so that nothing of it can say what it is equal to. Everything
else stays where it is, and a handle goes over.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

LONGEST = 16 * 2**20
"""Bytes of one message."""

TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, object),
        *(deque, Counter, OrderedDict, defaultdict, Decimal, Fraction, type(None), type(...)),
        *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta),
    )
}
"""Types that travel by their names."""
_SEQUENCES: tuple[Any, ...] = (list, tuple, set, frozenset, deque)
_MAPPINGS: tuple[Any, ...] = (Counter, OrderedDict, defaultdict, dict)
_SMALL = 2**63

Handle = Callable[[Any], list[Any]]
"""What goes over instead of an object that is no plain data."""
Handled = Callable[[str, Any], Any]
"""What such a handle is on the other side: its tag, and what came with it."""


class Unplain(Exception):
    """A message that is no message: too long, cut off, or not in this language."""


def encode(value: Any, handle: Handle) -> Any:
    """A value as JSON has it.

    >>> encode({(1, 2): {2.5}, "a": b"x"}, lambda _: ["mine", 0])
    ['dict', [['tuple', 1, 2], ['set', 2.5]], ['a', ['bytes', '78']]]
    """
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if -_SMALL < value < _SMALL else ["int", hex(value)]
    for kind in _SEQUENCES:
        if isinstance(value, kind):
            return [kind.__name__, *(encode(item, handle) for item in kind.__iter__(value))]
    for kind in _MAPPINGS:
        if isinstance(value, kind):
            return [kind.__name__, *([encode(k, handle), encode(v, handle)] for k, v in kind.items(value))]
    return _encode_rare(value, handle)


def _encode_rare(value: Any, handle: Handle) -> Any:
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, range):
        return ["range", *(encode(part, handle) for part in (value.start, value.stop, value.step))]
    if isinstance(value, Fraction):
        return ["Fraction", encode(value.numerator, handle), encode(value.denominator, handle)]
    if isinstance(value, Decimal):
        return ["Decimal", str(value)]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    for kind in (datetime.datetime, datetime.date, datetime.time):
        if isinstance(value, kind):
            return [kind.__name__, value.isoformat()]
    if value is ...:
        return ["ellipsis"]
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return ["type", value.__name__]
    return handle(value)


def decode(data: Any, handled: Handled) -> Any:
    """The value again, made of plain data alone. Raises Unplain for anything that ``encode`` does not write.

    >>> decode(["tuple", 1, ["int", "0x10000000000000000"]], lambda tag, _: None)
    (1, 18446744073709551616)
    """
    try:
        return _decode(data, handled)
    except Unplain:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise Unplain(f"{type(error).__name__}: {error}") from None


def _decode(data: Any, handled: Handled) -> Any:
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise Unplain("an object of JSON")
        return data
    tag, *rest = data
    for kind in _SEQUENCES:
        if tag == kind.__name__:
            return kind(_decode(item, handled) for item in rest)
    for kind in _MAPPINGS:
        if tag == kind.__name__:
            items = [(_decode(key, handled), _decode(item, handled)) for key, item in rest]
            return defaultdict(None, items) if kind is defaultdict else kind(dict(items))
    return _decode_rare(tag, rest, handled)


def _decode_rare(tag: str, rest: list[Any], handled: Handled) -> Any:
    match tag, rest:
        case "int", [str(text)]:
            return int(text, 16)
        case "bytes", [str(text)]:
            return bytes.fromhex(text)
        case "bytearray", [str(text)]:
            return bytearray.fromhex(text)
        case "complex", [float(real), float(imaginary)]:
            return complex(real, imaginary)
        case "range", [*parts]:
            return range(*(_decode(part, handled) for part in parts))
        case "Fraction", [above, below]:
            return Fraction(_decode(above, handled), _decode(below, handled))
        case "Decimal", [str(text)]:
            return Decimal(text)
        case "timedelta", [int(days), int(seconds), int(microseconds)]:
            return datetime.timedelta(days, seconds, microseconds)
        case (("datetime" | "date" | "time"), [str(text)]):
            return getattr(datetime, tag).fromisoformat(text)
        case "ellipsis", []:
            return ...
        case "type", [str(name)]:
            return TYPES[name]
        case str(), [something]:
            return handled(tag, something)
    raise Unplain(f"the tag {tag!r:.40}")


def write_message(descriptor: int, message: Any) -> None:
    """One message, its length first. Raises Unplain for one that is too long, OSError where nobody reads."""
    text = json.dumps(message).encode()
    if len(text) > LONGEST:
        raise Unplain("too long")
    left = memoryview(len(text).to_bytes(4, "big") + text)
    while left:
        left = left[os.write(descriptor, left) :]


def read_message(descriptor: int) -> Any:
    """The next message. Raises Unplain where there is none, or none that can be read."""
    length = int.from_bytes(_read_exactly(descriptor, 4), "big")
    if length > LONGEST:
        raise Unplain("too long")
    try:
        return json.loads(_read_exactly(descriptor, length))
    except (ValueError, RecursionError) as error:
        raise Unplain(str(error)) from None


def _read_exactly(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 2**16))
        if not part:
            raise Unplain("cut off")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
