"""A text as documents: cut at line ends, so that a gigabyte streams, and a share of it can be held out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from upslope.errors import UserError

PART = 1 << 16
"""The longest document, in bytes of UTF-8."""
_MARK = "\ufeff".encode()
_OTHERS = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_OTHER_MARKS = {_MARK.decode().encode(name): name.rpartition("-")[0] for name in _OTHERS}
"""The byte order marks of encodings that are not read, the longer ones first."""


class Document(NamedTuple):
    """A piece of text to learn language from, and where it stands: ``file, row 12`` or ``file, byte 65536``."""

    text: str
    where: str


def text_parts(file: BinaryIO, name: str) -> Iterator[Document]:
    """The text of a file, cut after line ends into documents of at most 64 KiB; a longer line is cut between two
    characters. The byte order mark goes, and line ends of Windows become plain ones; parts of nothing but white space
    are left out.

    Raises UserError with the byte's number for what is not UTF-8, and for zero bytes, which only a binary file has.
    """
    for begin, data in _windows(file):
        if begin == 0:
            require_readable_mark(data, name)
        mark = len(_MARK) if begin == 0 and data.startswith(_MARK) else 0
        text = _decoded(data[mark:], name, begin + mark).replace("\r\n", "\n")
        if text.strip():
            yield Document(text, f"{name}, byte {begin}")


def require_readable_mark(data: bytes, name: str) -> None:
    """Raise UserError for a file that begins as UTF-16 or UTF-32, as PowerShell and Excel write them."""
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise UserError(f"{name}: {encoding.upper()} and not UTF-8; convert it (iconv -f {encoding} -t utf-8)")


def row_parts(text: str, where: str) -> Iterator[Document]:
    """The text of a row, cut as a file's; as it is where it is no longer than a document may be.

    Raises UserError for half a character (a lone surrogate).
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise UserError(f"{where}: character {error.start} is half of one ({half!a}); write the pair or none") from None
    if len(data) <= PART:
        if text.strip():
            yield Document(text, where)
        return
    for begin, window in _windows(io.BytesIO(data)):
        part = window.decode()
        if part.strip():
            yield Document(part, f"{where}, byte {begin}")


def _windows(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each part begins, and its bytes."""
    begin, window = 0, file.read(PART)
    while window:
        stop = len(window) if len(window) < PART else _cut(window)
        yield begin, window[:stop]
        begin, window = begin + stop, window[stop:] + file.read(stop)


def _cut(window: bytes) -> int:
    """Where a full window is cut: after its last line, or else before a character that may go on."""
    stop = window.rfind(b"\n") + 1
    if stop:
        return stop
    stop = len(window)
    for back in range(1, 4):
        if window[-back] & 0xC0 != 0x80:  # where a character begins
            whole = back >= (1 + (window[-back] >= 0xC0) + (window[-back] >= 0xE0) + (window[-back] >= 0xF0))
            stop -= 0 if whole else back
            break
    return stop - 1 if window[stop - 1 : stop] == b"\r" else stop


def _decoded(data: bytes, name: str, begin: int) -> str:
    zero = data.find(0)
    if zero >= 0:
        raise UserError(f"{name}, byte {begin + zero}: a zero byte, so this is no text file; leave it out")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        at = begin + error.start
        raise UserError(
            f"{name}, byte {at}: not UTF-8 text (0x{data[error.start]:02x}); convert the file (iconv -t UTF-8)"
        ) from None
