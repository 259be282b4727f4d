"""A function on several ranks of a process group, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class RankFailed(AssertionError):
    """A rank raised, died, or was not done in time."""


def on_processes(size: int, work: Callable[[], Any], seconds: float = 120) -> list[Any]:
    """What ``work`` returns on each of ``size`` ranks (gloo), by rank; anything that pickles. Raises RankFailed with
    what the first rank said that raised; processes are forked, so that ``work`` may be any function."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(size):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(rank, size, folder, work, theirs), daemon=True)
            process.start()
            theirs.close()
            started.append((process, mine))
        try:
            return _collected([mine for _, mine in started], time.monotonic() + seconds, seconds)
        finally:
            for process, _ in started:
                process.kill()
                process.join()


def _collected(ends: list[Connection], until: float, seconds: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(ends):
        waiting = [end for rank, end in enumerate(ends) if rank not in found]
        ready = wait(waiting, max(0.0, until - time.monotonic()))
        if not ready:
            raise RankFailed(f"ranks {[r for r in range(len(ends)) if r not in found]} took longer than {seconds} s")
        for end in ready:
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                found[rank], error = pickle.loads(end.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                error = "it died"
            if error:
                raise RankFailed(f"rank {rank}: {error}")
    return [found[rank] for rank in range(len(ends))]


def _run(rank: int, size: int, folder: str, work: Callable[[], Any], end: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("default")
    try:
        store = dist.FileStore(str(Path(folder) / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
        given = work(), ""
    except BaseException:
        given = None, traceback.format_exc()
    end.send_bytes(pickle.dumps(given))  # tensors by value: whoever sent them is gone when they are read
    if dist.is_initialized() and not given[1]:
        dist.barrier()
        dist.destroy_process_group()
