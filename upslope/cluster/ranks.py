"""Learners in processes of their own: rows shared out, gradients summed by torch.distributed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from upslope.cluster.life import START, Life
from upslope.learn.ranks import own_passes, share_of
from upslope.types import Batch

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=1)
"""What torch waits for a learner's part of a sum. Long, because one may have much more to do than another; who died
or hangs is found sooner by whoever watches."""
BUCKET = 32 * 2**20
"""Bytes that are summed at a time: one message for many small tensors, no copy of all gradients at once."""


class DistributedRanks:
    """One of the learners of a process group (gloo on CPUs, nccl on GPUs), which is there already; a ``Ranks``.

    Two learners' sums are a + b in either order, so they are the same bits on both. Of more, gloo adds in a ring, in
    one order for all learners.
    """

    def __init__(self, life: Life | None = None) -> None:
        """``life``: told when it waits for the others, which is not its own silence."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.life = life or Life()

    def share(self, batch: Batch) -> Batch:
        """Consecutive rows with about as many tokens as the other learners' have."""
        return share_of(batch, self.rank, self.size)

    def passes(self, parts: Iterable[Batch], whole: Batch) -> Iterator[tuple[Batch, bool]]:
        """Each as many as it has: nothing is exchanged within a pass."""
        for given in own_passes(parts):
            self.life.beat()
            yield given

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor the sum of all learners' tensors at its place."""
        with torch.no_grad():
            for bucket in _buckets(tensors):
                whole = torch.cat([t.detach().reshape(-1) for t in bucket])
                with self.life.at(""):
                    dist.all_reduce(whole)
                for tensor, part in zip(bucket, torch.split(whole, [t.numel() for t in bucket]), strict=True):
                    tensor.copy_(part.view_as(tensor))

    def gather(self, value: T) -> list[T]:
        """Every learner's value, by rank; anything that pickles. Its tensors arrive on the taker's own device."""
        found: list[Any] = [None] * self.size
        gloo = dist.get_backend() == "gloo"
        with self.life.at(""):
            dist.all_gather_object(found, value if gloo else sent(value))
        return found if gloo else [received(data) for data in found]

    def from_first(self, value: T) -> T:
        """The first learner's value, on all of them."""
        box = [value]
        with self.life.at(""):
            dist.broadcast_object_list(box, src=0)
        return box[0]


def meet(rank: int, size: int, at: str, device: torch.device, life: Life | None = None) -> DistributedRanks:
    """Join the learners' process group: ``rank`` of ``size``, at ``HOST:PORT``. Waits ``START`` seconds for all
    to come."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    host, port = at.rsplit(":", 1)
    store = dist.TCPStore(host, int(port), size, is_master=rank == 0, timeout=timedelta(seconds=START))  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    return DistributedRanks(life)


def part() -> None:
    """Leave it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sent(value: object) -> bytes:
    """A value to be read by another process, which may have another GPU."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _to_own(storage: Any, place: str) -> Any:
    return storage.cuda() if place.startswith("cuda") else storage


def received(data: bytes) -> Any:
    """What ``sent`` made bytes of, with tensors of a GPU on this process's own (``torch.cuda.set_device``). Only for
    what a learner of the same run sent: it may run code."""
    return torch.load(
        io.BytesIO(data),
        map_location=_to_own,
        weights_only=False,
    )


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Consecutive tensors of one kind, as many as fill a message; a large one alone."""
    found: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        num = tensor.numel() * tensor.element_size()
        alike = found and found[-1][0].dtype == tensor.dtype and found[-1][0].device == tensor.device
        if not alike or size + num > BUCKET:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += num
    return found
