"""A run's sampler on vLLM, with its server: from settings to something that makes samplers, and nothing left behind."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from upslope.cluster.ports import free_port
from upslope.cluster.vllm.client import VllmClient
from upslope.cluster.vllm.handover import FileHandover, Handover, dtype_name, write_weights
from upslope.cluster.vllm.nccl import NcclHandover, can_transfer
from upslope.cluster.vllm.sampler import VllmSampler
from upslope.cluster.vllm.server import VllmServer, model_runner, server_arguments
from upslope.errors import UserError
from upslope.model.adapter import has_adapter
from upslope.model.policy import Policy
from upslope.training.settings import RunSettings

NOT_BY_ADDRESS = (
    "vLLM draws the tokens: each request is seeded by its address, but draws are not by address, so the run does not "
    "repeat bit for bit"
)
"""What run.toml and the journal say of a run whose sampler this is."""

MOST_GAP = {"float32": 0.001, "bfloat16": 0.5, "float16": 0.5}
"""Nats that ``cluster.most_gap`` allows where it is left out, by what both sides compute in. They only round
differently where the handover was right: in float32 that came to 2e-6 to 1e-4 nats (docs/vllm.md), and a head that was
left stale to 0.002 to 11. In bfloat16 a logit of 16 or more is a multiple of 1/8, and rounding alone came to 0.22."""


@contextlib.contextmanager
def vllm_sampler(settings: RunSettings, folder: Path | None) -> Iterator[Callable[[Policy], VllmSampler]]:
    """Within it, a function from a policy to a sampler, for ``run_to_end``; at its end, every server that was started
    is ended, and every file of weights deleted. ``folder``: the run's, whose ``vllm`` keeps the server's log and the
    weights on their way; None: one that does not stay.

    Raises, as a sampler is made: UserError for a model that vLLM does not take (an adapter, float64), Unavailable for
    a server that does not start or answer.
    """
    with contextlib.ExitStack() as end:
        if folder is None:
            place = Path(end.enter_context(tempfile.TemporaryDirectory(prefix="upslope-vllm-")))
        else:
            place = folder / "vllm"

        def make(policy: Policy) -> VllmSampler:
            dtype = dtype_name(policy)
            if has_adapter(policy.model):
                raise UserError("vLLM is given whole weights, and this model has an adapter; set learn.lora_rank = 0")
            client = _server(settings, policy, dtype, place, end)
            handover = _handover(policy, client, place)
            end.callback(_close, handover)
            given = settings.cluster.most_gap
            return VllmSampler(policy, client, handover, most_gap=MOST_GAP[dtype] if given is None else given)

        yield make


def vllm_of_run(
    settings: RunSettings, folder: Path | None, policy: Policy, say: Callable[[str], None], held: contextlib.ExitStack
) -> VllmSampler:
    """The sampler of a run, which ``say`` is told of; ``held`` ends the server. Raises as ``vllm_sampler`` does."""
    make = held.enter_context(vllm_sampler(settings, folder))
    say(NOT_BY_ADDRESS)
    return make(policy)


def _server(settings: RunSettings, policy: Policy, dtype: str, place: Path, end: contextlib.ExitStack) -> VllmClient:
    """The server that the settings name, or one of the run's own that is ready."""
    cluster = settings.cluster
    if cluster.vllm_url and cluster.vllm_python:
        raise UserError("cluster.vllm_url is a server that is there, and cluster.vllm_python starts one; leave one out")
    if cluster.vllm_url:
        return VllmClient(cluster.vllm_url, cluster.patience)
    python, port = cluster.vllm_python or sys.executable, free_port()
    start = write_weights(policy, place / "start")
    end.callback(shutil.rmtree, start, ignore_errors=True)
    words = server_arguments(
        str(start.resolve()),
        dtype,
        port=port,
        memory=cluster.vllm_memory,
        on_gpu=policy.device.type == "cuda",
        nccl=can_transfer(policy),
    )
    runner = model_runner(len(policy.never.ids))
    server = VllmServer(python, words, port, place, cluster.patience, runner)
    end.callback(server.close)
    client = VllmClient(server.url, cluster.patience, server.post_mortem)
    server.wait_ready(client)
    for file in start.glob("*.safetensors"):  # read, and as large as the model
        file.unlink()
    return client


def _handover(policy: Policy, client: VllmClient, place: Path) -> Handover:
    return NcclHandover(client, policy) if can_transfer(policy) else FileHandover(client, place / "weights")


def _close(handover: Handover) -> None:
    """Whatever ended the run may have ended the server before."""
    with contextlib.suppress(UserError):
        handover.close()
