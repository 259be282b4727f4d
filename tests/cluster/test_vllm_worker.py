"""What runs inside vLLM, tried on a model that packs its weights as vLLM does on a CPU; and the way by NCCL."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from vllms import tied

from upslope.cluster.vllm.handover import checksum_of, write_weights
from upslope.cluster.vllm.nccl import NcclHandover, can_transfer
from upslope.cluster.vllm.worker import WeightsDigest, WeightsExtension, repack_shared
from upslope.errors import UserError


class Packing(torch.nn.Module):
    """An embedding, a layer and a tied head; the last two compute with packed copies of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3, bias=False)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        for module in (self.layer, self.head):
            pack(module, remove_weight=module is self.layer)


def pack(module: Any, remove_weight: bool) -> None:
    """As ``dispatch_cpu_unquantized_gemm``."""
    packed = module.weight.detach().clone()
    module.cpu_linear = lambda x: x @ packed.T
    if remove_weight:
        module.weight = torch.nn.Parameter(torch.empty(0))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    utils = ModuleType("vllm.model_executor.layers.utils")
    utils.dispatch_cpu_unquantized_gemm = pack  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, utils.__name__, utils)


def test_a_tied_head_is_packed_again_and_nothing_else(vllm: None) -> None:
    model, x = Packing(), torch.ones(1, 3)
    layer = model.layer.cpu_linear
    with torch.no_grad():
        model.embed.weight.copy_(torch.arange(15.0).view(5, 3))
    assert not torch.equal(model.head.cpu_linear(x), x @ model.embed.weight.T), "it was never stale"
    assert repack_shared(model) == 1
    assert torch.equal(model.head.cpu_linear(x), x @ model.embed.weight.T)
    assert model.layer.cpu_linear is layer


def test_the_worker_answers_the_checksum_of_what_it_handed_to_the_model(vllm: None, tmp_path: Path) -> None:
    class Worker(WeightsExtension):
        def reload_weights(self, weights_iterator: Iterable[tuple[str, torch.Tensor]]) -> None:
            self.got = dict(weights_iterator)

        def get_model(self) -> torch.nn.Module:
            return Packing()

    policy, worker = tied(), Worker()
    folder = write_weights(policy, tmp_path / "weights")
    answer = worker.upslope_load(str(folder), "4")
    checksum, num = checksum_of(folder)
    assert answer == {"version": "4", "checksum": checksum, "num_tensors": num, "num_repacked": 1}
    assert worker.got.keys() == policy.weights().keys()
    assert all(worker.got[n].equal(w) for n, w in policy.weights().items())


@pytest.mark.parametrize(
    "other",
    [
        ("b", torch.zeros(2, 2)),
        ("a", torch.zeros(4)),
        ("a", torch.zeros(2, 2, dtype=torch.int32)),
        ("a", torch.eye(2)),
    ],
    ids=["name", "shape", "dtype", "value"],
)
def test_a_checksum_is_of_all_that_a_tensor_is(other: tuple[str, torch.Tensor]) -> None:
    def value(*tensor: Any) -> str:
        digest = WeightsDigest()
        digest.add(*tensor)
        return digest.value()

    assert value("a", torch.zeros(2, 2)) == value("a", torch.zeros(2, 4)[:, ::2])
    assert value("a", torch.zeros(2, 2)) != value(*other)
    assert len(value("a", torch.zeros(2, dtype=torch.bfloat16))) == 64


# -- by NCCL: the order of calls that vLLM documents; no GPU has seen it -----------------------------------------


def test_without_a_gpu_weights_go_through_files() -> None:
    assert can_transfer(tied()) is False


def test_without_vllm_here_nccl_is_refused() -> None:
    with pytest.raises(UserError, match="weights by NCCL need vLLM in this environment too"):
        NcclHandover(SimpleNamespace(), tied())  # type: ignore[arg-type]


def test_nccl_sends_while_the_server_is_quiet_and_names_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Client:
        url, patience, label = "http://here:1", 5.0, ""

        def get(self, path: str) -> Any:
            return {"/get_world_size": {"world_size": 2}, "/weight_info": {"weight_version": self.label}}[path]

        def post(self, path: str, body: Any = None) -> Any:
            calls.append(path)
            self.label = (body or {}).get("new_version", self.label)
            return {"success": True}

    engine = SimpleNamespace(send_weights=lambda: calls.append("send_weights"))
    module = "vllm.distributed.weight_transfer"
    for name, content in {
        "vllm": {},
        "vllm.distributed": {},
        module: {},
        f"{module}.base": {"ModuleSource": lambda model: ("source", model)},
        f"{module}.clients": {"HTTPVLLMWeightSyncClient": lambda url, timeout: ("sync", url, timeout)},
        f"{module}.nccl_engine": {"NCCLTrainerInitInfo": lambda *given, **named: (given[0], named)},
        f"{module}.factory": {
            "WeightTransferTrainerFactory": SimpleNamespace(
                trainer_init=lambda info, client, source: calls.append((info, client, source)) or engine
            )
        },
    }.items():
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)
    policy, client = tied(), Client()
    handover = NcclHandover(client, policy)  # type: ignore[arg-type]
    label = handover.give(policy, 3)
    assert calls == [
        (("127.0.0.1", {"world_size": 3, "rank": 0}), ("sync", "http://here:1", 5.0), ("source", policy.model)),
        "/pause?mode=wait",
        "send_weights",
        "/reset_prefix_cache",
        "/update_weight_version",
        "/resume",
    ]
    assert label.startswith("3:") and client.label == label
