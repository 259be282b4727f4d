"""What a device says of itself: how much memory is free, and that it has done all it was given."""

from __future__ import annotations

from typing import Protocol

import torch


class Gauge(Protocol):
    """A device with memory of its own. ``gauge_of`` has a GPU's; tests have one that says and raises what they want."""

    def free(self) -> int:
        """Bytes that could be allocated now, those that torch holds and does not use included."""
        ...

    def give_back(self) -> None:
        """Let go of what torch holds and does not use, so that it can be cut anew."""
        ...


class CudaGauge:
    """An NVIDIA or AMD GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + unused

    def give_back(self) -> None:
        torch.cuda.empty_cache()


class AppleGauge:
    """An Apple GPU, which shares the machine's memory: what Metal recommends at most, less what is in use."""

    def free(self) -> int:
        return max(0, torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())

    def give_back(self) -> None:
        torch.mps.empty_cache()


def gauge_of(device: torch.device) -> Gauge | None:
    """None: nothing is known of its memory (a CPU's is everybody's), so fixed budgets stand."""
    if device.type == "cuda":
        return CudaGauge(device)
    return AppleGauge() if device.type == "mps" else None


def wait_for(device: torch.device) -> None:
    """Return when the device has done all it was given, so that a clock may be read; a CPU is never behind."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room. CUDA has a class for it; Apple's and cuBLAS's own are told by their words."""
    words = ("MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
