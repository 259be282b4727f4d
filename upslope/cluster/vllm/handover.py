"""Weights from the learner to the server: what is sent has a version and a checksum, and the server must name both."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch

from upslope.cluster.vllm.client import ServerRefused, VllmClient
from upslope.cluster.vllm.worker import WeightsDigest, tensors_in
from upslope.errors import UserError
from upslope.model.policy import Policy

SHOWN = 16
"""Digits of a checksum in a label."""


class Handover(Protocol):
    """A way for weights to reach the server."""

    def give(self, policy: Policy, version: int) -> str:
        """Hand over the policy's weights; afterwards the server writes with them. Returns the label that the server
        puts on what it writes. Raises UserError if it says that it uses others."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def write_weights(policy: Policy, folder: Path) -> Path:
    """The policy as a Hugging Face directory, written anew; returns the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    policy.save(folder)
    return folder


def checksum_of(folder: Path) -> tuple[str, int]:
    """(checksum, number) of a folder's tensors."""
    digest = WeightsDigest()
    for name, tensor in tensors_in(folder):
        digest.add(name, tensor)
    return digest.value(), digest.num_tensors


def label_of(version: int, checksum: str) -> str:
    """How weights are called on the server: their version, and the beginning of their checksum.

    >>> label_of(7, "0123456789abcdef0123")
    '7:0123456789abcdef'
    """
    return f"{version}:{checksum[:SHOWN]}"


@contextlib.contextmanager
def paused(client: VllmClient) -> Iterator[None]:
    """The server writes nothing meanwhile. It goes on also after an error: it may be somebody's own."""
    client.post("/pause?mode=wait")
    try:
        yield
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is the one to be told
            client.post("/resume")
        raise
    client.post("/resume")


class FileHandover:
    """Through a folder that both sides see. The server is quiet meanwhile, and forgets the keys and values of prompts
    that it had kept: they are of the old weights."""

    method = "upslope_load"
    """Of ``WeightsExtension``."""

    def __init__(self, client: VllmClient, folder: Path) -> None:
        """``folder``: where folders of weights are made, and deleted once the server has read them."""
        self._client, self._folder = client, folder

    def give(self, policy: Policy, version: int) -> str:
        folder = write_weights(policy, self._folder / f"version-{version}")
        checksum, num = checksum_of(folder)
        label = label_of(version, checksum)
        with paused(self._client):
            answers = self._load(folder, str(version))
            for answer in answers:
                require_said(answer, {"version": str(version), "checksum": checksum, "num_tensors": num}, version)
            forget_prompts(self._client)
            require_label(self._client, label, version)
        shutil.rmtree(folder)
        return label

    def _load(self, folder: Path, version: str) -> list[Mapping[str, object]]:
        try:
            answers = self._client.rpc(self.method, folder=str(folder.resolve()), version=version)
        except ServerRefused as error:
            raise ServerRefused(
                f"{error}; it must see {folder.resolve()} and have been started with --worker-extension-cls "
                "upslope_vllm_worker.WeightsExtension (docs/vllm.md)"
            ) from None
        if not answers:
            raise UserError(f"the vLLM server at {self._client.url} has no workers that load weights; see docs/vllm.md")
        return answers

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def forget_prompts(client: VllmClient) -> None:
    """Empty the server's prefix cache. Raises UserError if it cannot."""
    if not (client.post("/reset_prefix_cache") or {}).get("success"):
        raise UserError(
            f"the vLLM server at {client.url} could not empty its prefix cache after new weights; is somebody else "
            "using it? Give the run a server of its own"
        )


def require_label(client: VllmClient, label: str, version: int) -> None:
    """Tell the server what its weights are called, since it does not note that by itself, and ask it."""
    client.post("/update_weight_version", {"new_version": label})
    require_said(client.get("/weight_info"), {"weight_version": label}, version)


def require_said(said: object, sent: Mapping[str, object], version: int) -> None:
    """Raise UserError unless the server says of its weights what is true of those that were sent."""
    for key, value in sent.items():
        found = said.get(key) if isinstance(said, dict) else said
        if found != value:
            raise UserError(
                f"weights of version {version} were sent with {key} {value}, and the vLLM server says that it uses "
                f"{found}; start the run again, with a server that nobody else loads weights into"
            )


def dtype_name(policy: Policy) -> str:
    """What vLLM calls the policy's dtype. Raises UserError for one that it does not compute in."""
    names = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
    dtype = next(policy.model.parameters()).dtype
    if dtype not in names:
        raise UserError(f"vLLM does not compute in {dtype}; set learn.dtype to float32 or bfloat16")
    return names[dtype]
