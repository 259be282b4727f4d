"""Weights as they are handed to another process: bytes by parameter name, with a version and a checksum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upslope.model.digest import tensor_bytes, weights_digest


@dataclass(frozen=True)
class Parcel:
    """Weights of one version. Arrays of bytes, because they cross without being copied, whatever their precision is."""

    version: int
    checksum: str
    """``weights_digest`` of all, in the order of ``arrays``."""
    arrays: Mapping[str, NDArray[np.uint8]]
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

    @staticmethod
    def of(weights: Mapping[str, Tensor], version: int) -> Parcel:
        """The weights as they are now; nothing that happens to them later shows."""
        arrays = {name: tensor_bytes(tensor).copy() for name, tensor in weights.items()}
        kinds = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
        return Parcel(version, weights_digest(weights), arrays, kinds)

    def weights(self) -> dict[str, Tensor]:
        """The same as tensors. They may lie in memory that must not be written."""
        found = {}
        for name, array in self.arrays.items():
            dtype, shape = self.kinds[name]
            found[name] = torch.from_numpy(array if array.flags.writeable else array.copy()).view(dtype).view(shape)
        return found
