"""A graph as CUDA has them, of torch's own operations on a CPU: recorded with the very tensors that they were given,
and done again with whatever those hold by then. What Python computed on the way is frozen, as it is there."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOOKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique", "aten::unique")


class RecordedGraph:
    """``made`` lists every one that was made, with how often each was replayed."""

    made: ClassVar[list[RecordedGraph]] = []

    def __init__(self):
        self.calls, self.replays = [], 0
        self.made.append(self)

    def capture(self, step):
        """As on a device, nothing is computed: what was changed on the way is as it was before."""
        recording = _Recording(self.calls)
        try:
            with recording:
                step()
        finally:
            for tensor, before in reversed(recording.before):
                tensor.copy_(before)

    def replay(self):
        self.replays += 1
        for func, args, kwargs, out in self.calls:
            again = tree_leaves(func(*args, **kwargs))
            for mine, new in zip(tree_leaves(out), again, strict=True):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self, calls):
        super().__init__()
        self.calls, self.before = calls, []
        self._places = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.name().startswith(LOOKS):
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            self._keep(argument, value)
        for argument in func._schema.arguments:
            self._keep(argument, kwargs.get(argument.name))
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, out))
        return out

    def _keep(self, argument, value):
        """What a tensor holds that is about to be changed."""
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(value, torch.Tensor):
            self.before.append((value, value.clone()))
