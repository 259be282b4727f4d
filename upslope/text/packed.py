"""Files as streams of bytes, plain or compressed, and how far each has been read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from upslope.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""Endings of compressed files, and what pyarrow calls the method."""
BUFFER = 1 << 20
POINTER = b"version https://git-lfs"
"""What stands in a file of a clone in the place of one that was not fetched."""


def ending(path: Path) -> str:
    """The last ending of a name, and the one before it where that is a compression's; in small letters.

    >>> ending(Path("a.b/Book.TXT.gz")), ending(Path("rows.1.jsonl"))
    ('.txt.gz', '.jsonl')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return "".join(suffixes[-2:] if suffixes and suffixes[-1] in COMPRESSED else suffixes[-1:])


class Meter:
    """How much has been read: bytes of files as they lie on the disk, compressed ones as such."""

    def __init__(self) -> None:
        self.done = self._before = 0

    def file(self, size: int) -> None:
        """A file of this many bytes is through."""
        self._before = self.done = self._before + size

    def at(self, place: int) -> None:
        """Within the present file."""
        self.done = self._before + place


def require_no_pointer(path: Path) -> None:
    """Raise UserError for a pointer of git-lfs."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path} is a pointer of git-lfs and not the file itself; run `git lfs pull` there, or download it "
                "again"
            )


@contextmanager
def open_bytes(path: Path, meter: Meter | None = None) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked. Raises UserError if it cannot be read, also while it is.

    ``meter`` learns after every read how far the file itself has been read.
    """
    try:
        require_no_pointer(path)
        if path.suffix.lower() in COMPRESSED and not path.stat().st_size:
            raise UserError(f"cannot read {path}: no bytes, which no packed file has; fetch or pack it again")
        with path.open("rb", buffering=0) as raw:
            told = _Told(raw, meter or Meter())
            if path.suffix.lower() not in COMPRESSED:
                with io.BufferedReader(told, BUFFER) as file:
                    yield file
            else:
                import pyarrow

                method = COMPRESSED[path.suffix.lower()]
                packed = pyarrow.input_stream(pyarrow.PythonFile(told, mode="r"), compression=method)
                with packed, io.BufferedReader(packed, BUFFER) as file:
                    yield file
    except OSError as error:  # pyarrow's have no strerror, and may have several lines
        if error.strerror:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        first = str(error).partition("\n")[0]
        raise UserError(f"cannot read {path}: {first}; fetch the file, or pack it, again") from error


class _Told(io.RawIOBase):
    """A file that tells how far it has been read."""

    def __init__(self, raw: io.FileIO, meter: Meter) -> None:
        self._raw, self._meter = raw, meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        num = self._raw.readinto(buffer) or 0
        self._meter.at(self._raw.tell())
        return num
