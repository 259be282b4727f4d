"""One position of a table of rows, computed again and again without the host: recorded for a shape, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from upslope.plugins import said


class Graph(Protocol):
    """What a device does for one position, recorded. ``CudaGraph`` is CUDA's; tests have one that records the calls of
    torch on a CPU."""

    def capture(self, step: Callable[[], None]) -> None:
        """Record what ``step`` would do; nothing is computed. Raises an exception if it asks the device for anything
        on the way, or does what cannot be recorded."""
        ...

    def replay(self) -> None:
        """Do it, with what the tensors that it reads hold by now."""
        ...


MakeGraph = Callable[[], Graph]
_RECORDING = Lock()
"""CUDA records one graph at a time in a process."""


@runtime_checkable
class Steady(Protocol):
    """A decoder whose ``advance`` falls into what the host knows of it, and what the device does."""

    def open(self) -> int:
        """The host's part: how many columns rows see at their next token."""
        ...

    def compute(self, token_N: Tensor, columns: int) -> Tensor:
        """The device's: logits [N, V]. Whatever changes from token to token is in ``held``, and is changed there."""
        ...

    def held(self) -> list[Tensor]:
        """Those tensors. They stay where they are until rows begin, leave or come."""
        ...


class CudaGraph:
    """A CUDA graph. Those with one ``pool`` share the memory between their operations, and need one ``stream``."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream) -> None:
        self._pool, self._stream, self._graph = pool, stream, torch.cuda.CUDAGraph()

    def capture(self, step: Callable[[], None]) -> None:
        before = torch.cuda.current_stream(self._stream.device)
        # Other threads may ask the device what they like meanwhile, but for a recording of their own.
        how = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        try:
            with _RECORDING, torch.cuda.graph(self._graph, **how):
                step()
        except BaseException:
            torch.cuda.set_stream(before)  # torch stays on the other one where a recording fails
            raise

    def replay(self) -> None:
        self._graph.replay()


def graphs_of(device: torch.device) -> MakeGraph | None:
    """How graphs are made there; None where there are none."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return partial(CudaGraph, torch.cuda.graph_pool_handle(), stream)


class Captured:
    """Runs a step, by graphs. A step of a shape that is new runs as it is, which warms it up; the second time it is
    recorded, and from then on replayed, for as long as every tensor that it reads lies where it lay.

    Where a step cannot be recorded, ``say`` is told why, and all run as they are from then on.
    """

    def __init__(self, make: MakeGraph | None, say: Callable[[str], None]) -> None:
        self._make, self._say = make, say
        self._graphs: dict[int, Graph | None] = {}
        self._held: list[tuple[int, torch.Size]] = []

    def look(self, held: Sequence[Tensor]) -> None:
        """To be called before steps whenever anything but a step may have been done: ``held`` is what they read."""
        places = [(tensor.data_ptr(), tensor.shape) for tensor in held]
        if places != self._held:
            self._graphs, self._held = {}, places

    def run(self, step: Callable[[int], None], columns: int) -> None:
        """``step(columns)``, which differs from others since the last change by the columns that rows see, and in
        nothing else."""
        if self._make is None or columns not in self._graphs:
            self._graphs[columns] = None
            step(columns)
            return
        graph = self._graphs[columns] or self._recorded(self._make, partial(step, columns))
        if graph is None:
            step(columns)
            return
        self._graphs[columns] = graph
        graph.replay()

    def _recorded(self, make: MakeGraph, step: Callable[[], None]) -> Graph | None:
        try:
            graph = make()
            graph.capture(step)
        except Exception as error:  # whatever a model does in its forward pass that cannot be recorded
            self._make, self._graphs = None, {}
            first = next(iter(said(error, str).splitlines()), "")
            self._say(
                "sampling launches every operation anew, which is slower: a step of this model cannot be recorded "
                f"({type(error).__name__}: {first})"
            )
            return None
        return graph
