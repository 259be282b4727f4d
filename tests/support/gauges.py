"""A device that reports a size and runs out of memory, on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from upslope.model.policy import Policy


class StandInGauge:
    """A ``Gauge`` that says what it was told to."""

    def __init__(self, free: int) -> None:
        self.bytes, self.num_given_back = free, 0

    def free(self) -> int:
        return self.bytes

    def give_back(self) -> None:
        self.num_given_back += 1


@contextlib.contextmanager
def holding(policy: Policy, most: int, *, kind: type[RuntimeError] = torch.OutOfMemoryError) -> Iterator[list[int]]:
    """A device on which a call of the embedding with more than ``most`` tokens raises; yields their numbers."""
    seen: list[int] = []

    def refuse(module: object, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0].numel())
        if given[0].numel() > most:
            raise kind("MPS backend out of memory" if kind is RuntimeError else "CUDA out of memory")

    handle = policy.model.get_input_embeddings().register_forward_pre_hook(refuse)
    try:
        yield seen
    finally:
        handle.remove()
