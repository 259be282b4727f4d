"""A hash of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tensor_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """A tensor's bytes as one flat array; on a CPU without a copy, where they lie in order."""
    found: NDArray[Any] = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return found


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bytes, in the order in which they are given."""
    found = hashlib.sha256()
    for name, tensor in weights.items():
        found.update(name.encode())
        found.update(tensor_bytes(tensor).data)
    return found.hexdigest()
