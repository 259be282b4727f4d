"""What a corpus is made of, by content: the same text is tokenised once, wherever it lies."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from upslope.errors import UserError, of_system
from upslope.text.packed import ending
from upslope.text.shards import whole_file

RECENT = 2_000_000_000
"""Nanoseconds for which a file may change once more without its time telling."""


class Origin(NamedTuple):
    """A file of text, or (``sha256`` empty) a data set of the hub."""

    name: str
    kind: str
    """By which reader its content counts: the ending of its name."""
    size: int
    changed: int
    """When, in nanoseconds since 1970."""
    sha256: str

    @property
    def content(self) -> list[str]:
        """What its text depends on. A data set of the hub goes by its name."""
        return [self.kind, self.sha256 or self.name]


def origins(found: Sequence[Path | str], folder: Path) -> list[Origin]:
    """What stands behind each source. A file whose size and time are as noted in ``folder`` is not read again.

    Raises UserError for a file that cannot be read.
    """
    notes = _Notes(folder / "sources.json")
    made = [notes.origin(one) if isinstance(one, Path) else Origin(one, "hub", 0, 0, "") for one in found]
    notes.keep()
    return made


def require_unchanged(made: Sequence[Origin]) -> None:
    """Raise UserError for a file that was changed since."""
    for one in made:
        if one.sha256 and _state(Path(one.name)) != (one.size, one.changed):
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
        if isinstance(noted, list) and noted[:2] == [*state] and len(noted) == 3:
            return Origin(str(path), ending(path), *state, str(noted[2]))
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {of_system(error)}") from error
        if time.time_ns() - state[1] > RECENT:
            self._noted[place] = [*state, sha256]
            self._new = True
        return Origin(str(path), ending(path), *state, sha256)

    def keep(self) -> None:
        if self._new:
            with whole_file(self._path) as file:
                file.write(json.dumps(self._noted).encode())


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {of_system(error)}") from error
    return found.st_size, found.st_mtime_ns
