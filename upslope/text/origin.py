"""What a corpus is made of, by content: the same text is tokenised once, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from upslope.errors import UserError, of_system
from upslope.files import write_whole
from upslope.text.packed import ending

RECENT = 2_000_000_000
"""Nanoseconds for which a file may change once more without its time telling."""


class Origin(NamedTuple):
    """A file of text, or (``sha256`` empty) a data set of the hub."""

    name: str
    kind: str
    """By which reader its content counts: the ending of its name."""
    size: int
    state: tuple[int, ...]
    """What tells that it was changed: its size, the nanoseconds since 1970 of its content and of what the system knows
    of it, and which file it is (inode)."""
    sha256: str

    @property
    def content(self) -> list[str]:
        """What its text depends on. A data set of the hub goes by its name."""
        return [self.kind, self.sha256 or self.name]


def origins(found: Sequence[Path | str], folder: Path) -> list[Origin]:
    """What stands behind each source. A file whose size, times and inode are as noted in ``folder`` is not read again.

    Raises UserError for a file that cannot be read.
    """
    notes = _Notes(folder / "sources.json")
    made = [notes.origin(one) if isinstance(one, Path) else Origin(one, "hub", 0, (), "") for one in found]
    notes.keep()
    return made


def require_unchanged(made: Sequence[Origin]) -> None:
    """Raise UserError for a file that was changed since."""
    for one in made:
        if one.sha256 and _state(Path(one.name)) != one.state and _digest(Path(one.name)) != one.sha256:
            raise UserError(f"{one.name} was changed while it was read; start again when it is complete")


class _Notes:
    """Hashes of files that were read before."""

    def __init__(self, path: Path) -> None:
        self._path, self._new = path, False
        try:
            noted = json.loads(path.read_bytes())
            self._noted: dict[str, Any] = noted if isinstance(noted, dict) else {}
        except (OSError, ValueError):
            self._noted = {}

    def origin(self, path: Path) -> Origin:
        place, state = str(path.resolve()), _state(path)
        noted = self._noted.get(place)
        if isinstance(noted, list) and noted[:-1] == [*state]:
            return Origin(str(path), ending(path), state[0], state, str(noted[-1]))
        sha256 = _digest(path)
        if time.time_ns() - max(state[1:3]) > RECENT:
            self._noted[place] = [*state, sha256]
            self._new = True
        return Origin(str(path), ending(path), state[0], state, sha256)

    def keep(self) -> None:
        if self._new:
            write_whole(self._path, json.dumps(self._noted).encode())


def _state(path: Path) -> tuple[int, ...]:
    """``Origin.state``; the content's time alone can be set to what it was."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {of_system(error)}") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _digest(path: Path) -> str:
    """The SHA-256 of a file. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {of_system(error)}") from error
