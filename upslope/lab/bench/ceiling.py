"""What the machine can do at most: products and reading of memory, without any model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from upslope.model.gauge import wait_for

SIDE = 2048
"""Of the square matrices on a CPU."""
DEVICE_SIDE = 8192
"""On a GPU: products of 2048 take it less time than to be asked for them."""
SMALL_SIDE = 256
LONGEST = 2.0
"""Seconds for one product. A processor without bfloat16 takes 20 for 2048, and is asked for ``SMALL_SIDE`` alone."""
READ_BYTES = 2**28
"""More than any cache holds."""
TRIES = 5
"""The best of so many counts: what disturbs a measurement only makes it slower."""
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64"}


@dataclass(frozen=True)
class Ceiling:
    """Rates that no model's step can exceed."""

    gflops: dict[torch.dtype, float]
    """10^9 floating point operations a second in products of square matrices."""
    memory_gb_per_s: float
    """10^9 bytes a second, read once in order."""


def measure_ceiling(device: torch.device, dtypes: Sequence[torch.dtype]) -> Ceiling:
    """Every product rate asked for, and the memory's."""
    return Ceiling({dtype: product_gflops(device, dtype) for dtype in dtypes}, read_gb_per_s(device))


def product_gflops(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """GFLOP/s of C = A B: side^3 multiplications and as many additions."""
    if side is None and device.type == "cpu":
        small = product_gflops(device, dtype, SMALL_SIDE)
        if 2 * SIDE**3 / 1e9 / small > LONGEST:
            return small
    side = side or (SIDE if device.type == "cpu" else DEVICE_SIDE)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / best_seconds(lambda: a @ b, device) / 1e9


def read_gb_per_s(device: torch.device) -> float:
    """GB/s of summing up float32 numbers."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    return READ_BYTES / best_seconds(numbers.sum, device) / 1e9


def best_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The fastest of some tries, after one that warms up."""
    return min(_seconds(work, device) for _ in range(TRIES + 1))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start
