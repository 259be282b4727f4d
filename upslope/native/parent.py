"""A process that lives no longer than the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def end_with(parent: int) -> None:
    """Be killed when the parent is gone, also in code that holds Python's lock, where the system can do that. To Linux
    the parent is the thread that started this process: see ``started``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def started(start: Callable[[], T]) -> T:
    """What ``start`` returns, which starts a process that calls ``end_with``. It is called in a thread that lasts as
    long as this process: one that was started by another thread would be killed at that thread's end."""
    if threading.current_thread() is threading.main_thread():
        return start()
    return _LASTING.submit(start).result()


def _lasting() -> None:
    global _LASTING
    _LASTING = ThreadPoolExecutor(1, thread_name_prefix="starts-processes")


_LASTING: ThreadPoolExecutor
_lasting()
os.register_at_fork(after_in_child=_lasting)  # a fork has no threads
