"""Weights as they are handed to another process: bytes by parameter name, with a version and a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Parcel:
    """Weights of one version. Arrays of bytes, because they cross without being copied, whatever their precision is."""

    version: int
    checksum: str
    """SHA-256 over all bytes, in the order of names."""
    arrays: Mapping[str, NDArray[np.uint8]]
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

    @staticmethod
    def of(weights: Mapping[str, Tensor], version: int) -> Parcel:
        """The weights as they are now; nothing that happens to them later shows."""
        arrays = {name: as_bytes(tensor).copy() for name, tensor in weights.items()}
        kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
        return Parcel(version, _digest(arrays), arrays, kinds)

    def weights(self) -> dict[str, Tensor]:
        """The same as tensors. They may lie in memory that must not be written."""
        found = {}
        for name, array in self.arrays.items():
            dtype, shape = self.kinds[name]
            found[name] = torch.from_numpy(array if array.flags.writeable else array.copy()).view(dtype).view(shape)
        return found


def checksum(weights: Mapping[str, Tensor]) -> str:
    """What ``Parcel.of`` would say of these weights."""
    return _digest({name: as_bytes(tensor) for name, tensor in weights.items()})


def as_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """A tensor's bytes as one flat array; on a CPU without a copy, where they lie in order."""
    return np.asarray(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + b"\0")
        digest.update(arrays[name].data)
    return digest.hexdigest()
