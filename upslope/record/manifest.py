"""Folders that upslope wrote, and no others: a manifest of hashes says so, and whether all of it is still there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from upslope.errors import UserError
from upslope.files import flush_folder, sync_folder, write_whole

MANIFEST = "manifest.json"


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill; at the end it is flushed, gets its manifest, and is renamed into place: whole or absent.

    What stands there, if it is ours and whole, is kept as ``NAME.replaced`` until then. Where it cannot be filled, what
    is in it goes again, so that a full disk gets its room back. Raises UserError if what stands there is not ours.
    """
    aside = folder.with_name(f".{folder.name}.part")
    remove(aside)
    aside.mkdir(parents=True)
    try:
        (aside / MANIFEST).write_text("{}")  # ours from the first moment, and not whole
        yield aside
        _readable(aside)
        hashes = {p.relative_to(aside).as_posix(): _digest(p) for p in flush_folder(aside) if p != aside / MANIFEST}
        write_whole(aside / MANIFEST, json.dumps(hashes, indent=1).encode())
    except BaseException:
        with contextlib.suppress(OSError, UserError):
            remove(aside)
        raise
    replaced = folder.with_name(f"{folder.name}.replaced")
    if is_whole(folder):
        remove(replaced)
        folder.rename(replaced)
    else:
        remove(folder)
    aside.rename(folder)
    sync_folder(folder.parent)
    if is_ours(replaced):
        remove(replaced)


def _readable(aside: Path) -> None:
    """Whoever may read what this process writes may read all of it: safetensors lets nobody but the owner read its
    files, and a server of another user's could not open the model."""
    mode = stat.S_IMODE((aside / MANIFEST).stat().st_mode)
    for path in aside.rglob("*"):
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there with the hash it was written with."""
    return why_not_whole(folder) == ""


def why_not_whole(folder: Path) -> str:
    """What is wrong with a folder, in a few words; empty if it is whole."""
    try:
        hashes = json.loads((folder / MANIFEST).read_bytes())
        if not isinstance(hashes, dict) or any("\0" in name for name in hashes):
            return f"its {MANIFEST} is none"
        for name, digest in hashes.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if _digest(folder / name) != digest:
                return f"{name} is not as it was written"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            return f"{Path(str(error.filename)).name:.80}: {error.strerror}"
        return f"its {MANIFEST} cannot be read"
    return "" if hashes else "it was not finished"


def is_ours(folder: Path) -> bool:
    """Whether upslope wrote it and may delete it: it has a manifest, or nothing at all in it."""
    return (folder / MANIFEST).is_file() or (folder.is_dir() and not any(folder.iterdir()))


def remove(folder: Path) -> None:
    """Delete a folder of ours, if there is one. Raises UserError, and deletes nothing, if it is somebody else's.

    Its manifest goes last, so that what a kill leaves behind is still known as ours.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not is_ours(folder):
        raise UserError(f"{folder} was not written by upslope (it has no {MANIFEST}) and is in the way; move it")
    for path in folder.iterdir():
        if path.name != MANIFEST:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(folder)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
