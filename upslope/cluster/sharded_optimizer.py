"""An optimizer whose masters, gradients and moments lie in shards on several learners."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from upslope.cluster.sharded_model import ShardedRoot
from upslope.errors import NonFinite, UserError
from upslope.learn.optimizer import LocalOptimizer
from upslope.learn.ranks import Ranks, agree_on_soundness
from upslope.learn.rules import rules_of
from upslope.learn.settings import LearnSettings


class ShardedOptimizer(LocalOptimizer):
    """``LocalOptimizer`` for a model that was sharded: ``masters`` are this rank's parts of the weights, flat in no
    way: rows of them, which FSDP gathers when it computes. AdamW moves every entry by itself, so parts move as the
    whole would; only the gradient's norm is of all ranks.

    All ranks call every method together. ``full_precision``, ``state`` and ``gathered`` give whole tensors on the first
    rank, and nothing on the others; ``set_weights`` and ``load`` take whole tensors on all of them, so that a
    checkpoint does not know how many ranks wrote it.
    """

    def __init__(
        self,
        model: nn.Module,
        roots: list[ShardedRoot],
        ranks: Ranks,
        settings: LearnSettings,
        num_updates: int,
        dtype: torch.dtype,
    ) -> None:
        """``roots`` as ``shard_language_model`` or ``shard_value_model`` gave them."""
        self.settings, self.num_updates, self.dtype = settings, num_updates, dtype
        self.num_done, self.moved = 0, False
        self.publishing: Callable[[], AbstractContextManager[object]] = nullcontext
        self._roots, self._ranks, self._compute = roots, ranks, {}
        self._shards: dict[str, DTensor] = {n: p for n, p in model.named_parameters() if isinstance(p, DTensor)}
        self.masters = {
            name: nn.Parameter(typing.cast(DTensor, shard.detach()).to_local()) for name, shard in self._shards.items()
        }
        self._rules = rules_of(model, self.masters, settings)

    # -- gradients ----------------------------------------------------------------------------------------------

    def zero(self) -> None:
        super().zero()
        for shard in self._shards.values():
            shard.grad = None

    def gather(self, ranks: Ranks) -> None:
        """The backward passes have summed; what they left is made the masters' gradients."""
        for name, master in self.masters.items():
            grad = self._shards[name].grad
            master.grad = torch.zeros_like(master) if grad is None else grad.to_local()  # type: ignore[attr-defined]

    def norm(self) -> Tensor:
        """The norm of the gradient over all masters of all ranks."""
        mine = super().norm()
        total = math.sqrt(sum(part**2 for part in self._ranks.gather(float(mine))))
        return torch.tensor(total, dtype=mine.dtype, device=mine.device)

    def _blame(self) -> str:
        named = {name: int((~torch.isfinite(m.grad)).sum()) for name, m in self.masters.items() if m.grad is not None}
        parts = self._ranks.gather(named)
        for name, shard in self._shards.items():
            bad = sum(part.get(name, 0) for part in parts)
            if bad:
                return f"the gradient of {name} is not finite in {bad} of {shard.numel()} entries"
        return "the gradient's norm overflows though every entry is finite"

    # -- moving -------------------------------------------------------------------------------------------------

    def count(self) -> None:
        """One update is done: the masters moved. Raises NonFinite, on all ranks, if one of them overflowed."""
        num_done, complaint = self.num_done, ""
        try:
            super().count()
        except NonFinite as error:
            complaint = str(error)
        agree_on_soundness(self._ranks, complaint)
        self.num_done = num_done + 1

    def publish(self) -> None:
        """What was gathered is out of date."""
        with self.publishing():
            for root in self._roots:
                root.rest()

    @torch.no_grad()
    def set_weights(self, weights: dict[str, Tensor]) -> None:
        self.moved = True
        for name, master in self.masters.items():
            master.copy_(self._part(name, weights[name]))
        self.publish()

    # -- whole tensors ------------------------------------------------------------------------------------------

    def gathered(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight in full precision, one after the other. Raises UserError once the other learners have ended."""
        if not dist.is_initialized():
            raise UserError(
                "the other learners, which hold parts of the weights, have ended; take the run's checkpoint"
            )
        for name, shard in self._shards.items():
            whole = typing.cast(DTensor, shard.detach()).full_tensor()
            if self._ranks.rank == 0:
                yield name, whole

    def full_precision(self) -> dict[str, Tensor]:
        return {name: whole.cpu() for name, whole in self.gathered()}

    @property
    def master_bytes(self) -> int:
        return sum(shard.numel() * shard.element_size() for shard in self._shards.values())

    @property
    def moment_bytes(self) -> int:
        return sum((len(rule.kept) - ("step" in rule.kept)) * self.master_bytes for rule in self._rules)

    def state(self) -> dict[str, Tensor]:
        found = {}
        for key, value in super().state().items():
            kind, _, name = key.partition("/")
            whole = value if kind == "step" else self.whole(name, value)
            if self._ranks.rank == 0:
                found[key] = whole.cpu()
        return found

    def load(self, state: dict[str, Tensor], num_done: int) -> None:
        parts = {}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            fits = kind != "step" and name in self._shards and value.shape == self._shards[name].shape
            parts[key] = self._part(name, value) if fits else value
        super().load(parts, num_done)

    def share_out(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], num_done: int) -> None:
        """``set_weights`` and ``load`` with the first rank's whole tensors, of which every rank is sent its part, one
        tensor after the other. The others give nothing; no weights: these stay, no state: no update was made."""
        told = {key: float(value) if key.startswith("step/") else None for key, value in state.items()}
        names, counts, num_done = self._ranks.gather((list(weights), told, num_done))[0]
        with torch.no_grad():
            for name in names:
                self.masters[name].copy_(sent_part(self._shards[name], weights.get(name)))
        if names:
            self.publish()
        parts = {}
        for key, num in counts.items():
            shard = self._shards[key.partition("/")[2]]
            parts[key] = sent_part(shard, state.get(key)) if num is None else torch.tensor(num)
        super().load(parts, num_done)

    def _part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a tensor that is cut as the weight of that name is."""
        shard = self._shards[name]
        cut = distribute_tensor(whole.to(shard.device), shard.device_mesh, shard.placements, src_data_rank=None)
        return cut.to_local()

    def whole(self, name: str, part: Tensor) -> Tensor:
        """The tensor of which this is the rank's part, cut as the weight of that name is."""
        shard = self._shards[name]
        cut: Any = DTensor.from_local(
            part.to(shard.device),
            shard.device_mesh,
            shard.placements,
            run_check=False,
            shape=shard.shape,
            stride=shard.stride(),
        )
        whole: Tensor = cut.full_tensor()
        return whole


def sent_part(shard: DTensor, whole: Tensor | None) -> Tensor:
    """This rank's part of the first rank's ``whole`` tensor, cut as ``shard`` is; called by all ranks together, and the
    others give None."""
    if whole is None:
        whole = torch.empty(shard.shape, dtype=shard.dtype, device=shard.device)
    given = whole.detach().to(shard.device, shard.dtype)
    return distribute_tensor(given, shard.device_mesh, shard.placements).to_local()


@torch.no_grad()
def share_weights_out(model: nn.Module, whole: dict[str, Tensor]) -> None:
    """Put the first rank's ``whole`` weights, by parameter name, into a model that was sharded; called by all ranks,
    and the others give none. ``whole`` is emptied on the way, so that each tensor can go."""
    for name, shard in model.named_parameters():
        mine = typing.cast(DTensor, shard.detach())
        mine.to_local().copy_(sent_part(mine, whole.pop(name, None)))
