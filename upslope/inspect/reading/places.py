"""Which runs there are to look at, and where their files lie: nothing outside of the folders that were given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from upslope.errors import UserError
from upslope.record.journal import JOURNAL
from upslope.record.names import ROLLOUTS, RUN

DEEPEST = 6
"""Folders below one that was given, in which runs are looked for."""
INSIDE_A_RUN = frozenset({"checkpoints", "rollouts", "reference"})


@dataclass(frozen=True)
class RunPlace:
    """A run's folder, and what it is called on the page and in its addresses.

    >>> RunPlace("pocket/grpo-0", Path("runs/pocket/grpo-0")).name
    'pocket/grpo-0'
    """

    name: str
    folder: Path

    def attempts_file(self, kind: str, step: int) -> Path | None:
        """The file of a step's (``kind="step"``) or an evaluation's attempts; None if there is none in the run."""
        if kind not in ("step", "eval") or step < 0:
            return None
        return self._inside(self.folder / "rollouts" / f"{kind}-{step:06d}.parquet")

    def attempt_steps(self, kind: str) -> list[int]:
        """Of which steps there are attempts, in order."""
        place = self.folder / "rollouts"
        try:
            names = [entry.name for entry in os.scandir(place)] if not place.is_symlink() else []
        except OSError:
            return []
        found = (ROLLOUTS.fullmatch(name) for name in names)
        return sorted(int(named[2]) for named in found if named and named[1] == kind)

    def journal_file(self) -> Path | None:
        return self._inside(self.folder / JOURNAL)

    def settings_file(self) -> Path | None:
        return self._inside(self.folder / RUN)

    def _inside(self, path: Path) -> Path | None:
        """The path, if it is a file of this run and no link that leads out of it."""
        try:
            real = path.resolve()
            return real if real.is_file() and real.is_relative_to(self.folder.resolve()) else None
        except (OSError, RuntimeError):  # a link that leads to itself
            return None


def places(roots: Sequence[Path]) -> dict[str, RunPlace]:
    """Every run at or below ``roots`` by its name: the way from its root, behind the root's own name where there are
    several roots."""
    found: dict[str, RunPlace] = {}
    for root in roots:
        for folder in run_folders(root):
            way = folder.relative_to(root)
            parts = way.parts if way.parts and len(roots) == 1 else (root.resolve().name, *way.parts)
            name = _as_text("/".join(parts))
            if name in found:  # two roots of one name
                name = f"{name} ({_as_text(folder)})"
            while name in found:  # they differ in bytes that are no text
                name += "'"
            found[name] = RunPlace(name, folder)
    return found


def _as_text(path: str | Path) -> str:
    """What is no UTF-8 becomes ``�``: no address can hold it, and no answer."""
    return os.fsencode(path).decode("utf-8", "replace")


def run_folders(root: Path, depth: int = 0) -> Iterator[Path]:
    """``root`` if it is a run's folder, and the runs below it; links are not followed."""
    try:
        entries = {entry.name: entry for entry in os.scandir(root)}
    except OSError:
        return
    is_run = JOURNAL in entries or (RUN in entries and "rollouts" in entries)
    if is_run:
        yield root
    if depth == DEEPEST:
        return
    for name in sorted(entries):
        if name.startswith(".") or (is_run and name in INSIDE_A_RUN):
            continue
        if entries[name].is_dir(follow_symlinks=False):
            yield from run_folders(root / name, depth + 1)


def require_roots(given: Sequence[Path]) -> list[Path]:
    """The folders to look into. Raises UserError for one that is none."""
    for root in given:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; give a run's folder, or one with runs in it")
    return list(dict.fromkeys(Path(os.path.normpath(root.absolute())) for root in given))
