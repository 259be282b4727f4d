"""What runs inside vLLM's own environment: load weights from a folder, say which they were, refresh what was packed.

vLLM mixes ``WeightsExtension`` into its workers (``--worker-extension-cls``). A copy of this file alone is put on its
path, so nothing of upslope may be imported here, and vLLM only inside a function: the other side uses the digest too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

MODULE = "upslope_vllm_worker"
"""What this file is called where vLLM imports it."""


class WeightsDigest:
    """SHA-256 over names, dtypes, shapes and bytes of tensors, in the order they are given.

    >>> digest = WeightsDigest()
    >>> digest.add("a", torch.zeros(2)); digest.add("b", torch.ones(1)); digest.num_tensors
    2
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_tensors = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        self._hash.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        self._hash.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self.num_tensors += 1

    def value(self) -> str:
        return self._hash.hexdigest()


def tensors_in(folder: str | Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a folder's safetensors files, in one order for all who read it."""
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                yield name, opened.get_tensor(name)


class WeightsExtension:
    """Methods that vLLM's worker gets besides its own; the server calls them by name (``/collective_rpc``)."""

    def upslope_load(self, folder: str, version: str) -> dict[str, Any]:
        """Load the folder's weights. Answers the version that was asked for, the checksum of the very tensors that
        were handed to the model, how many they were, and how many packed weights were made again."""
        digest = WeightsDigest()

        def hashed() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in tensors_in(folder):
                digest.add(name, tensor)
                yield name, tensor

        self.reload_weights(weights_iterator=hashed())  # type: ignore[attr-defined]
        num = repack_shared(self.get_model())  # type: ignore[attr-defined]
        return {
            "version": version,
            "checksum": digest.value(),
            "num_tensors": digest.num_tensors,
            "num_repacked": num,
        }


def repack_shared(model: torch.nn.Module) -> int:
    """Make the packed copies of weights that two modules share again; returns how many.

    On a CPU vLLM packs every linear weight for its kernels (a layer's ``cpu_linear``) once it is loaded. A head that is
    tied to the embedding has nothing of its own to load, so a reload leaves it the packed copy of the old weights, and
    every log-probability after it is of two models at once.
    """
    owners: dict[int, list[torch.nn.Module]] = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.numel():
            owners.setdefault(weight.data_ptr(), []).append(module)
    shared = [m for modules in owners.values() if len(modules) > 1 for m in modules if hasattr(m, "cpu_linear")]
    if shared:
        from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

        for module in shared:
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
    return len(shared)
