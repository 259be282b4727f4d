"""What is left in a run's folder by a process that ended while it wrote, and is deleted by the next that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from upslope.files import PART
from upslope.record.journal import JOURNAL
from upslope.record.manifest import is_ours, is_whole, remove
from upslope.record.names import BEST_FILE, MARK, REFERENCE, ROLLOUTS, RUN, TRACKERS
from upslope.record.trust import SEAL

OWN_FILES = re.compile("|".join([*map(re.escape, (RUN, JOURNAL, SEAL, BEST_FILE)), ROLLOUTS.pattern, MARK.pattern]))
UNFINISHED = re.compile(rf"\.(?:step-\d+|{REFERENCE.pattern})\.part|{REFERENCE.pattern}\.replaced")


def sweep(folder: Path, *, begun: bool) -> None:
    """Delete it. Only whoever holds the folder may. Where no run has ``begun`` there, the reference that it would have
    had goes too."""
    for place in (folder, folder / "rollouts", folder / TRACKERS):
        for file in _in(place, ".*.part"):
            if is_part(file):
                file.unlink()
    for place in (*_in(folder, "*reference*"), *_in(folder / "checkpoints", ".step-*.part")):
        unfinished = UNFINISHED.fullmatch(place.name) and not (place.name.startswith(".step") and is_whole(place))
        if (unfinished or (not begun and place.name == "reference")) and _may_go(place):
            remove(place)


def may_be_ours(path: Path) -> bool:
    """Whether something in a folder in which no run has begun is what one left that was ended too early."""
    if path.name in ("rollouts", "checkpoints"):
        return path.is_dir() and all(is_part(inside) for inside in path.iterdir())
    if UNFINISHED.fullmatch(path.name) or path.name == "reference":
        return _may_go(path)
    return path.name == SEAL or is_part(path)


def is_part(path: Path) -> bool:
    """Whether it is a file of a run that ``write_whole`` was at work on."""
    found = PART.fullmatch(path.name)
    named = found is not None and OWN_FILES.fullmatch(found[1]) is not None
    return named and path.is_file() and not path.is_symlink()


def _may_go(place: Path) -> bool:
    return not place.is_symlink() and is_ours(place)


def _in(place: Path, pattern: str) -> Iterator[Path]:
    yield from sorted(place.glob(pattern)) if place.is_dir() else ()
