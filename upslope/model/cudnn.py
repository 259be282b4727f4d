"""cuDNN's attention, put aside on NVIDIA's GPUs: it plans anew for every shape, and packed passes bring new ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp

_LOCK = threading.Lock()
_WITHIN = 0
_BEFORE = True
"""What the process had set when the first of those that are within came."""


@contextmanager
def without_cudnn(device: torch.device) -> Iterator[None]:
    """Torch picks another kernel for attention meanwhile; then the setting is what it was. It is one for the whole
    process, so of several threads the last one that leaves puts it back. Does nothing on any other device."""
    global _WITHIN, _BEFORE
    if device.type != "cuda":
        yield
        return
    with _LOCK:
        if not _WITHIN:
            _BEFORE = cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            enable_cudnn_sdp(False)
        _WITHIN += 1
    try:
        yield
    finally:
        with _LOCK:
            _WITHIN -= 1
            if not _WITHIN:
                enable_cudnn_sdp(_BEFORE)
