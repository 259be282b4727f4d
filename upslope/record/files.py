"""Writing so that a kill at any moment leaves either the old file or the new one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def write_whole(path: Path, content: Buffer) -> None:
    """Write aside, flush to the disk, rename over ``path``."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def is_part(path: Path, of: str) -> bool:
    """Whether it is what a kill left of ``write_whole``, of a file whose name matches ``of``."""
    return re.fullmatch(rf"\.({of})\.\d+\.part", path.name) is not None and path.is_file() and not path.is_symlink()


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
