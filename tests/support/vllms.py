"""Samplers on the stand-in for vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import naive
import torch
from vllm_stand_in import StandIn

from upslope.cluster.vllm.client import VllmClient
from upslope.cluster.vllm.handover import FileHandover
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.model.policy import Policy

MOST_GAP = 1e-3
"""Nats; the two sides compute in float32 and differ by a hundredth of it."""


def tied(seed: int = 0, **changes: Any) -> Policy:
    """A random policy whose head is its embedding, in a precision that vLLM has."""
    return naive.policy(seed, torch.float32, tie_word_embeddings=True, **changes)


@dataclass
class Served:
    policy: Policy
    server: StandIn
    sampler: VllmSampler


@contextmanager
def served(folder: Path, patience: float = 20, most_gap: float = MOST_GAP, **changes: Any) -> Iterator[Served]:
    """A policy, the stand-in with its weights, and the sampler between them. ``changes``: of the model's config."""
    policy = tied(**changes)
    policy.save(folder / "start")
    server = StandIn(folder / "start")
    try:
        client = VllmClient(server.url, patience)
        handover = FileHandover(client, folder / "weights")
        yield Served(policy, server, VllmSampler(policy, client, handover, most_gap=most_gap))
    finally:
        server.close()


def moved(policy: Policy, by: float = 0.05, seed: int = 3) -> dict[str, torch.Tensor]:
    """Other weights: the policy's and some noise."""
    chance = torch.Generator().manual_seed(seed)
    return {n: w.detach() + by * torch.randn(w.shape, generator=chance) for n, w in policy.weights().items()}
