"""Memory: how much is used, keeping what was freed (else a small step is half page faults on Linux), and giving it back
once too much of it has gathered."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT = 2**30
TOP_PAD = 2**28
KERNEL_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own cache of compiled products, and that of torch's layer above it: one entry a shape, 1024 by default."""
SHAPES_KEPT = "128"
"""A micro-batch has some fifteen shapes, a table of 32 rows that empties five for each number of rows."""
GROWTH = 1.1
SLACK = 2**28
"""Bytes that are never worth giving back."""


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds (mallopt(3)); say whether that was possible. Other systems are left alone."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    wanted = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, LARGEST_KEPT), (M_TOP_PAD, TOP_PAD))
    taken = [mallopt(option, value) for option, value in wanted]  # each is tried: older ones refuse the first
    return all(answer == 1 for answer in taken)


def bound_kernel_caches() -> None:
    """Let the libraries keep fewer compiled products; for the whole process, and only before its first one in bfloat16.

    Texts have ever other lengths, so a product of this very shape hardly comes again, and half a megabyte is kept for
    each. Worse, these small entries lie between large buffers that are freed, which then cannot be joined and used
    again. What the environment says already is left as it is.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, SHAPES_KEPT)


def give_back() -> None:
    """Let the system have all freed memory (malloc_trim(3)); nothing where there is no glibc."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes that the process holds now, of memory that is its own or shared; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


class Keeper:
    """Gives freed memory back when it has gathered because it does not fit what is wanted next, and only then: memory
    that is used again and again would have to be fetched, page by page, every time.

    ``check`` is to be called after every piece of work. What is held after the first piece of a kind since memory was
    last given back is taken for what that kind needs; a tenth more than the neediest kind (and at least ``SLACK``)
    is too much.
    """

    def __init__(self, resident: Callable[[], int] = resident, give_back: Callable[[], None] = give_back) -> None:
        self._resident, self._give_back = resident, give_back
        self._needed: dict[str, int] = {}
        self._most = 0

    def check(self, kind: str) -> None:
        """Look, and give back if it is too much; ``kind`` names the piece of work that just ended."""
        held = self._resident()
        self._most = max(self._most, held)
        if kind not in self._needed:
            self._needed[kind] = held
            return
        needed = max(self._needed.values())
        if held > max(GROWTH * needed, needed + SLACK):
            self._give_back()
            self._needed = {}

    def most(self) -> int:
        """The most bytes held at any ``check`` since this was last asked."""
        found, self._most = self._most, 0
        return found


def peak_gb(device: torch.device) -> float:
    """The most memory used so far, in GB (10^9 bytes): what was allocated on a CUDA device, else what the process held
    (of an Apple GPU too, which shares its memory). The journal's ``memory_gb`` and the bench's ``peak_gb``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 1e9


def _glibc(name: str) -> Callable[..., int] | None:
    """One of glibc's own functions; None on another system or with another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
