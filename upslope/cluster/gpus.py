"""Which GPU is whose. Ray gives one to each process that it starts; the run's own process, which Ray did not start,
asks for one as well, so that nobody else is put on it."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from upslope.cluster.crew import end, reason
from upslope.cluster.life import START
from upslope.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
OF_JOB, LEFT_ALONE = "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""What Ray sets for a job that was submitted to it; the second one where the job asked for no GPU."""
FINEST = 10_000
"""Parts of a GPU that Ray can tell apart; it rounds, so whoever shares must round down."""


@dataclass(frozen=True)
class GpuShares:
    """How much of a GPU a process of each kind is given."""

    learner: float = 0.0
    sampler: float = 0.0
    said: str = ""
    """For whoever watches, where GPUs are shared."""


def gpu_shares(gpus: int, ranks: int, samplers: int) -> GpuShares:
    """One for each learner and sampler. Where there are fewer, samplers share what the learners leave, or the only one
    with the only learner. Raises UserError where learners would have to share: NCCL refuses two on one GPU.

    >>> gpu_shares(3, ranks=1, samplers=2)
    GpuShares(learner=1.0, sampler=1.0, said='')
    >>> gpu_shares(3, ranks=2, samplers=3)
    GpuShares(learner=1.0, sampler=0.3333, said='3 samplers share 1 GPU')
    >>> gpu_shares(1, ranks=1, samplers=1).said
    '1 learner and 1 sampler share 1 GPU'
    """
    left = gpus - ranks
    if left >= samplers:
        return GpuShares(1.0, 1.0)
    if left > 0:
        share = _part(math.ceil(samplers / left))
        return GpuShares(1.0, share, f"{_some(samplers, 'sampler')} share {_some(left, 'GPU')}")
    if gpus == ranks == 1:
        share = _part(1 + samplers)
        return GpuShares(share, share, f"1 learner and {_some(samplers, 'sampler')} share 1 GPU")
    raise UserError(
        f"cluster: {_some(ranks, 'learner')} and {_some(samplers, 'sampler')} want a GPU each, learners "
        f"one of their own, and Ray has {_some(gpus, 'GPU')}; lower cluster.ranks or cluster.samplers"
    )


def _part(num: int) -> float:
    return math.floor(FINEST / num) / FINEST


def _some(num: int, what: str) -> str:
    return f"{num} {what}{'' if num == 1 else 's'}"


class GpuHolder:
    """A process that does nothing but hold a GPU."""

    def gpu(self) -> str:
        return given_gpu()


def given_gpu() -> str:
    """Which GPU Ray has given to this process, by its number on this machine; empty: none."""
    context = ray.get_runtime_context()
    return ",".join(map(str, context.get_accelerator_ids().get("GPU", ())))


def share_gpus(device: str, ranks: int, samplers: int, held: contextlib.ExitStack) -> GpuShares:
    """Reserve a GPU of this machine for this process, as long as ``held`` is, and compute on it; returns what the
    others are to be given. ``device`` is the settings'. Raises UserError for too few, or one that this process does not
    see."""
    if device not in ("auto", "cuda"):
        raise UserError(f"device = {device!r}: in a cluster Ray says which GPU is whose; set device = 'cuda'")
    ours = OF_JOB in os.environ and os.environ.get(LEFT_ALONE) != "1" and bool(os.environ.get(VISIBLE))
    elsewhere = ray.util.client.ray.is_connected()  # type: ignore[no-untyped-call]
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    shares = gpu_shares(int(resources.get("GPU", 0)) + elsewhere, ranks, samplers)
    if not ours and not elsewhere:  # nobody has reserved it yet, and Ray can
        before = torch.cuda.current_device()
        torch.cuda.set_device(place_of(_held_gpu(shares.learner, held)))
        held.callback(torch.cuda.set_device, before)
    return shares


def _held_gpu(share: float, held: contextlib.ExitStack) -> str:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": share, "scheduling_strategy": here}
    actor: Any = ray.remote(**options)(GpuHolder).remote()
    held.callback(end, actor)
    try:
        gpu: str = ray.get(actor.gpu.remote(), timeout=START)
    except RayError as error:
        raise UserError(f"Ray has no GPU for the first learner on this machine: {reason(error)}") from error
    return gpu


def place_of(gpu: str) -> int:
    """The number by which torch calls it in this process. Raises UserError if it cannot be seen here."""
    seen = os.environ.get(VISIBLE)
    if seen is None:
        return int(gpu)
    visible = [name.strip() for name in seen.split(",")]
    if gpu not in visible:
        raise UserError(
            f"Ray gave GPU {gpu} to the first learner, which sees only {seen} ({VISIBLE}); start Ray and the run "
            "with the same value"
        )
    return visible.index(gpu)
