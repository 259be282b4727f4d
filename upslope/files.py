"""Writing so that a kill at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


PART = re.compile(r"\.(.+)\.\d+\.part")
"""How a file is called while it is written, and after a kill: its name, and the process that was at work on it."""


def part_of(path: Path) -> Path:
    """How a file, or a folder, is called while this process writes it."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file written aside, flushed to the disk, and renamed over ``path`` at the end. Where that fails, what was
    written goes again: a full disk gets its room back."""
    part = part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_whole(path: Path, content: Buffer) -> None:
    """``whole_file`` with this content."""
    with whole_file(path) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut, where the system allows a folder to be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not on Windows
        return
    _flush(descriptor)


def _flush(descriptor: int) -> None:
    """To the disk, and closed."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> list[Path]:
    """Flush all files below to the disk, and the folders that name them; returns the files, in order."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        _flush(os.open(file, os.O_RDONLY))
    for inner in {file.parent for file in files}:
        sync_folder(inner)
    return files
