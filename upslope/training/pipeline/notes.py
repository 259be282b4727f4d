"""What each stage of a pipeline was made of, kept beside the stages' folders: a stage is done once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from upslope.errors import UserError
from upslope.files import write_whole

NOTES = "stages.json"
_ABSENT = "none"


@dataclass(frozen=True)
class Note:
    """What a stage is made of, and what it left.

    >>> first = Note(settings={"steps": 3, "learn.lr": 0.1})
    >>> Note(settings={"steps": 3, "learn.lr": 0.2}).differences(first)
    ['learn.lr is 0.2 now, it was 0.1']
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted key, those that change what is left."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """The fingerprint of every stage that it begins with, or whose folder it reads."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Hashes of what else it reads, by what it is."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what ran; they are told and count for nothing, or every update of a library would undo hours."""
    left: str = ""
    """A hash of what it left; empty until it is done."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides the result."""
        told = [dict(self.settings), dict(self.needs), dict(self.data)]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def differences(self, before: Note, written: Container[str] | None = None) -> list[str]:
        """A part of a line for everything that decides the result and is not as it was. ``written``: the keys that the
        user gave; of the others, one that was not there before is one that upslope did not have then, and its default
        is what was done. None: all are."""
        known = [key for key in self.settings if written is None or key in before.settings or key in written]
        keys = dict.fromkeys((*before.settings, *known))
        said = [
            f"{key} is {_spelled(self.settings, key)} now, it was {_spelled(before.settings, key)}"
            for key in keys
            if _spelled(self.settings, key) != _spelled(before.settings, key)
        ]
        said += [f"stage {name} is another one" for name in _differ(before.needs, self.needs)]
        return said + [f"{name} is not what it was" for name in _differ(before.data, self.data)]

    def updates(self, before: Note) -> list[str]:
        """The same for versions."""
        names = _differ(before.versions, self.versions)
        return [f"{n} {self.versions.get(n, _ABSENT)}, then {before.versions.get(n, _ABSENT)}" for n in names]


def _differ(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def _spelled(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], default=str) if key in settings else _ABSENT


class Notebook:
    """The notes of a pipeline's folder. Only whoever holds the folder may write them."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError for a file of that name that is none of ours."""
        self._file = folder / NOTES
        try:
            content = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
            self._notes = {str(name): Note(**note) for name, note in content.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self._file} cannot be read, so nothing says which stages are done ({error}); put it back, or choose "
                "another name"
            ) from None

    def of(self, name: str) -> Note | None:
        """What is noted of a stage."""
        return self._notes.get(name)

    def begin(self, name: str, note: Note) -> None:
        """Say what a stage is being made of, before it writes anything."""
        self._notes[name] = replace(note, left="")
        self._write()

    def finish(self, name: str, left: str) -> None:
        """Say that a stage is done."""
        self._notes[name] = replace(self._notes[name], left=left)
        self._write()

    def forget(self, name: str) -> None:
        """Say that nothing of a stage is there any more."""
        if self._notes.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        told = {name: asdict(note) for name, note in self._notes.items()}
        write_whole(self._file, json.dumps(told, indent=1, default=str).encode())
