"""Keep freed memory instead of handing it back: on Linux a small model's step is otherwise half page faults."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT = 2**30
TOP_PAD = 2**28


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds (mallopt(3)); say whether that was possible. Other systems are left alone."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    wanted = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, LARGEST_KEPT), (M_TOP_PAD, TOP_PAD))
    return all(mallopt(option, value) == 1 for option, value in wanted)
