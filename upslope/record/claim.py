"""Whose a folder is: a run's alone, and one process's at a time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from upslope.errors import UserError
from upslope.record.files import is_part
from upslope.record.journal import JOURNAL
from upslope.record.manifest import is_ours

LOCK, OWNER = ".lock", ".owner"
REFERENCES = ("reference", ".reference.part")
"""What a start writes first, where its recipe refers to one."""
PARTS = r"run\.toml|journal\.jsonl|(step|eval)-\d+\.parquet"
"""Files that a run writes aside before it renames them, in its folder and among its attempts."""
LONGEST_NAME = 200


class Taken(UserError):
    """Another run has the folder, or it is somebody else's."""


@contextlib.contextmanager
def claimed(folder: Path, *, resume: bool = False) -> Iterator[Path]:
    """Hold ``folder``, made if it is not there, for a run: no other process gets it until this ends, however it ends.

    The lock is the system's, so that of a process that was killed is gone; its file stays. Raises Taken if another
    process holds it, if there is something in it that is no run's, or (without ``resume``) a run.
    """
    _make(folder)
    if not resume:  # before a file is laid down in a folder that is somebody else's
        require_free(folder)
    lock = FileLock(str(folder / LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Taken(
            f"{folder} belongs to {_owner(folder)}, which is at work there; wait for it, or choose another folder"
        ) from None
    try:
        for path in _parts(folder):  # whoever was killed while writing is gone, since the lock is ours
            path.unlink()
        if not resume:
            require_free(folder)  # again: another run may have come and gone in between
        owner = {"process": os.getpid(), "machine": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M}"}
        (folder / OWNER).write_text(json.dumps(owner), encoding="utf-8")
        yield folder
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def require_free(folder: Path) -> None:
    """Raise UserError unless the folder is empty, or a start broke off there before it wrote a run.toml."""
    if is_begun(folder):
        raise Taken(
            f"{folder} holds a run already; choose another name, or continue it with --resume {folder} (in Python: "
            "resume=True)"
        )
    references = (folder / name for name in REFERENCES if is_ours(folder / name))
    ours = (folder / LOCK, folder / OWNER, *references, *_parts(folder), *_unused(folder))
    others = sorted(path.name for path in folder.iterdir() if path not in ours)
    if others:
        raise Taken(f"{folder} is not empty and holds no run ({others[0]!r} is in it); choose another name")


def _parts(folder: Path) -> list[Path]:
    """What kills left half written."""
    return [path for place in (folder, folder / "rollouts") for path in place.glob(".*.part") if is_part(path, PARTS)]


def _unused(folder: Path) -> list[Path]:
    """The folders that a run makes first, if nothing was finished in them."""
    places, parts = [folder / name for name in ("rollouts", "checkpoints")], _parts(folder)
    return [place for place in places if place.is_dir() and all(path in parts for path in place.iterdir())]


def is_begun(folder: Path) -> bool:
    """Whether a run has written there."""
    return (folder / JOURNAL).exists() or (folder / "run.toml").exists()


def folder_in(out: Path, name: str) -> Path:
    """The folder of a run of this name. Raises UserError for a name that is none, or leaves ``out``."""
    parts = Path(name).parts
    if not name.strip() or Path(name).is_absolute() or any(part in (".", "..") for part in (*parts, name)):
        raise UserError(f"name = {name!r} leads out of {out}; give a name, such as my-run")
    strange = any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if strange or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise UserError(f"name = {name[:40]!r} cannot be the name of a folder; give a short one, such as my-run")
    return out / name


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder} cannot be a folder: a file is in the way") from None


def _owner(folder: Path) -> str:
    """Who holds it, as far as it is told."""
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {int(owner['process'])} on {owner['machine']} (since {owner['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
