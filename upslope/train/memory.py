"""Memory: the most that was used, and keeping what was freed (else a small step is half page faults on Linux)."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch

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


def peak_gb(device: torch.device) -> float:
    """The most memory used so far, in GB (10^9 bytes): the GPU's where the model lies on one, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    units = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 1e9
