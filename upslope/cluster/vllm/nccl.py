"""Weights to vLLM's GPUs by NCCL, written to the interface that vLLM documents (0.32: ``vllm.distributed
.weight_transfer``). It has not been run: it needs GPUs on both sides, and vLLM in this environment too.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from upslope.cluster.ports import free_port
from upslope.cluster.vllm.client import VllmClient
from upslope.cluster.vllm.handover import forget_prompts, label_of, paused, require_label
from upslope.cluster.vllm.worker import WeightsDigest
from upslope.errors import UserError
from upslope.model.policy import Policy


def can_transfer(policy: Policy) -> bool:
    """Whether the policy is on an NVIDIA GPU, and vLLM's side of the transfer can be imported here."""
    return policy.device.type == "cuda" and importlib.util.find_spec("vllm") is not None


class NcclHandover:
    """From GPU to GPU, without a file. What was received has no checksum of its own there, so the label is the
    learner's, and whether it is true is left to the gap check."""

    def __init__(self, client: VllmClient, policy: Policy, *, host: str = "127.0.0.1") -> None:
        """Joins one group with the server's workers, which must have been started with ``--weight-transfer-config``.
        ``host``: of this process, as the workers reach it. Raises UserError without vLLM."""
        try:
            from vllm.distributed.weight_transfer.base import ModuleSource
            from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
            from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise UserError(f"weights by NCCL need vLLM in this environment too ({error}); see docs/vllm.md") from None
        self._client = client
        workers = int(client.get("/get_world_size")["world_size"])
        info = NCCLTrainerInitInfo(host, free_port(), world_size=1 + workers, rank=0)
        sync = HTTPVLLMWeightSyncClient(client.url, timeout=client.patience)
        self._engine: Any = WeightTransferTrainerFactory.trainer_init(
            info, client=sync, source=ModuleSource(policy.model)
        )

    def give(self, policy: Policy, version: int) -> str:
        digest = WeightsDigest()
        for name, tensor in sorted(policy.weights().items()):
            digest.add(name, tensor)
        label = label_of(version, digest.value())
        with paused(self._client):
            self._engine.send_weights()
            forget_prompts(self._client)
            require_label(self._client, label, version)
        return label

    def close(self) -> None:
        self._client.post("/shutdown_weight_transfer_engine")
