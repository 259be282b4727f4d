"""The segments of packed tokens as kernels for sequences of unequal length want them: where each begins."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Cuts(NamedTuple):
    """Where sequences that lie end to end begin, and where the last one ends."""

    begin_S: Tensor
    """int32, one more than there are sequences."""
    longest: int

    @staticmethod
    def of(lengths: Sequence[int], device: torch.device) -> Cuts:
        """
        >>> Cuts.of([3, 1], torch.device("cpu")).begin_S.tolist()
        [0, 3, 4]
        """
        begins = list(itertools.accumulate(lengths, initial=0))
        return Cuts(torch.tensor(begins, dtype=torch.int32, device=device), max(lengths))


class Sight(NamedTuple):
    """Of tokens that branches have: they ask, and stems are read."""

    asking_X: Tensor
    """Every token of a branch, as a place in K; the branches of one stem are one sequence of ``asked``."""
    read_Y: Tensor
    """Every token of a stem that has branches."""
    asked: Cuts
    read: Cuts


class Halves(NamedTuple):
    """Who sees whom, in two halves without a mask."""

    own: Cuts
    """Of every stem and every branch, each causal on itself. Together they are all K tokens, in order."""
    stems: Sight | None
    """Branches on their stems, whole. None where no stem has branches."""


def halves_of(
    stems: Sequence[tuple[int, int]],
    branches: Sequence[tuple[int, int, int, int]],
    children: Sequence[tuple[int, int]],
    device: torch.device,
) -> Halves:
    """Of a layout's stems, branches and children: a stem lies before its branches, and those next to each other."""
    segments = sorted([*stems, *((start, length) for start, length, _, _ in branches)])
    own = Cuts.of([length for _, length in segments], device)
    asking: list[tuple[int, int]] = []
    read: list[tuple[int, int]] = []
    for stem, (first, count) in zip(stems, children, strict=True):
        if count:
            mine = branches[first : first + count]
            asking.append((mine[0][0], sum(length for _, length, _, _ in mine)))
            read.append(stem)
    if not asking:
        return Halves(own, None)
    cuts = (Cuts.of([length for _, length in spans], device) for spans in (asking, read))
    return Halves(own, Sight(_places(asking, device), _places(read, device), *cuts))


def _places(spans: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(start, start + length) for start, length in spans]).to(device)
