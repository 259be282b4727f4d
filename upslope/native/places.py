"""Where things are kept that can be made again, and whether others can write there."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """Where everything is kept that can be made again: $UPSLOPE_CACHE, else ~/.cache/upslope."""
    return Path(os.environ.get("UPSLOPE_CACHE") or Path.home() / ".cache" / "upslope")


def private_folder(place: Path) -> bool:
    """Whether the folder, made if it is not there, is one that nobody else can put files into: code that is loaded from
    it is then our own. False also where it cannot be made."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        only_ours = _others_cannot_write(place) and _others_cannot_write(place.parent, or_sticky=True)
        return only_ours and os.access(place, os.W_OK)
    except OSError:
        return False


def _others_cannot_write(path: Path, *, or_sticky: bool = False) -> bool:
    """Whether only we (or root) can put files there. In a sticky folder, such as /tmp, others can add some, and not
    exchange ours."""
    if not hasattr(os, "getuid"):
        return True
    found = path.stat()
    shared = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return found.st_uid in (0, os.getuid()) and (not shared or (or_sticky and bool(found.st_mode & stat.S_ISVTX)))
