"""The sharded learner: weights, gradients and moments shared out among the learners of a process group, by torch's
FSDP2."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from upslope.algo.recipe import Recipe
from upslope.cluster.life import Life
from upslope.cluster.ranks import DistributedRanks
from upslope.cluster.sharded_model import ShardedRoot, shard_language_model, shard_value_model
from upslope.cluster.sharded_optimizer import ShardedOptimizer, share_weights_out
from upslope.errors import UserError
from upslope.learn.build import build_learner, with_needed
from upslope.learn.learner import Learner
from upslope.learn.ranks import row_tokens
from upslope.learn.settings import LearnSettings
from upslope.model.adapter import has_adapter
from upslope.model.policy import Policy
from upslope.model.precision import cast_weights
from upslope.model.reference import Reference
from upslope.model.value import ValueModel
from upslope.types import Batch, Sampling


class ShardedRanks(DistributedRanks):
    """Learners that hold a part of the weights each, so that nobody passes rows without the others."""

    def __init__(self, life: Life | None = None) -> None:
        super().__init__(life)
        self.roots: list[ShardedRoot] = []
        """Of every sharded model."""

    def passes(self, parts: Iterable[Batch], whole: Batch) -> Iterator[tuple[Batch, bool]]:
        """As many on every rank as the one with most parts has; to fill up, the shortest row of all, uncounted."""
        mine = list(parts)
        most = max(self.gather(len(mine)))
        lengths = row_tokens(whole)
        try:
            for part in mine:
                self.life.beat()
                yield part, True
            for _ in range(most - len(mine)):
                yield whole.take([lengths.index(min(lengths))]), False
        finally:
            for root in self.roots:
                root.rest()

    def sum(self, tensors: Any) -> None:
        raise RuntimeError("backward passes of a sharded model sum its gradients; there is nothing else to be summed")


@dataclass
class ShardedLearner(Learner):
    """All ranks call every method together."""

    whole: Policy | None = None
    """On the first rank: the policy with all its weights in compute precision, to write attempts and to be saved with.
    It is as new as the last call of ``weights``."""

    @property
    def policy(self) -> Policy:
        """Whole on the first rank; in shards, which cannot write or be saved, on the others."""
        return self.scorer.policy if self.whole is None else self.whole

    def weights(self) -> Mapping[str, Tensor]:
        """The compute weights, gathered into ``whole``; on other ranks there are none."""
        assert isinstance(self.optimizer, ShardedOptimizer)
        self.free_gradients()
        own = {} if self.whole is None else dict(self.whole.weights())
        for name, tensor in self.optimizer.gathered():
            own[name].data.copy_(tensor)
        return own

    def full_precision(self) -> Mapping[str, Tensor] | None:
        """While the other learners are there, gathered; afterwards those of ``whole``, if it computes in full."""
        if dist.is_initialized():
            return self.kept()[0]
        assert self.whole is not None
        own = self.whole.weights()
        return own if {w.dtype for w in own.values()} == {w.dtype for w in self.optimizer.masters.values()} else None


def require_shardable(
    recipe: Recipe, settings: LearnSettings, model: Any | None = None, *, resets_reference: bool = False
) -> None:
    """Raise UserError for what cannot be shared out: known from the settings alone, or (``model``) from the model too.
    ``resets_reference``: whether the policy is made the reference now and then (``reference.every``)."""
    if "curvature" in recipe.needs:
        raise UserError(
            "cluster.shard: update = kl_ball differentiates gradients again, which FSDP2 cannot; set cluster.shard = "
            "false (cluster.ranks still shares out the rows), or another update"
        )
    if settings.optimizer == "muon":
        raise UserError("cluster.shard: muon turns whole matrices, and every learner has a part; set adamw")
    if settings.moments == "8bit" or settings.offload:
        raise UserError(
            "cluster.shard: moments in eight bits or in the host's memory are for one whole model; set learn.moments = "
            "'full' and learn.offload = false"
        )
    if settings.lora_rank or (model is not None and has_adapter(model)):
        raise UserError("cluster.shard is not for adapters, which are small: set cluster.shard = false")
    if resets_reference and recipe.refers:
        raise UserError("cluster.shard cannot make the policy the reference again: set reference.every = 0")
    named = [] if model is None else list(model.named_parameters())
    frozen = [name for name, parameter in named if not parameter.requires_grad]
    if frozen:
        raise UserError(f"cluster.shard trains all weights, and {frozen[0]} is frozen; set cluster.shard = false")
    if not all(hasattr(FSDPModule, name) for name in ("set_force_sum_reduction_for_comms", "reset_iter_state")):
        raise UserError(f"cluster.shard needs a newer torch than {torch.__version__}; set cluster.shard = false")


def sharded_learner(
    policy: Policy,
    recipe: Recipe,
    settings: LearnSettings,
    *,
    sampling: Sampling,
    num_updates: int,
    dtype: torch.dtype,
    reference: Reference | None = None,
    value: ValueModel | None = None,
    life: Life | None = None,
) -> ShardedLearner:
    """``build_learner`` for one of the ranks of a process group, all of which call it together with models of the same
    shape. The weights of policy, reference and critic are the first rank's: the others are sent their parts.

    The policy that is handed in stays whole on the first rank, and is sharded on the others. Raises UserError for what
    cannot be sharded (``require_shardable``) and as ``build_learner`` does.
    """
    require_shardable(recipe, settings, policy.model)
    reference, value = with_needed(policy, recipe, reference, value)
    ranks = ShardedRanks(life)
    mesh = init_device_mesh(policy.device.type, (ranks.size,))
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    whole, mine = policy, policy
    if ranks.rank == 0:
        mine = Policy(copy.deepcopy(policy.model), policy.tokenizer, policy.renderer)
        mine.checkpointing = policy.checkpointing
        cast_weights(whole.model, dtype)
    mine.native, mine.computes_in = False, dtype

    def share_out(model: Any, dtype: torch.dtype) -> list[ShardedRoot]:
        given = {name: p.data for name, p in model.named_parameters()} if ranks.rank == 0 else {}
        shard = shard_value_model if isinstance(model, ValueModel) else shard_language_model
        roots = shard(model, mesh, dtype)
        share_weights_out(model, given)
        ranks.roots += roots
        return roots

    def make_optimizer(
        model: Any, how: LearnSettings, num_updates: int, dtype: torch.dtype, full: frozenset[str]
    ) -> ShardedOptimizer:
        cast_weights(model, kept)
        return ShardedOptimizer(model, share_out(model, dtype), ranks, how, num_updates, dtype)

    if reference is not None and reference.frozen is not None:
        frozen = reference.frozen
        frozen.native, frozen.computes_in = False, next(frozen.model.parameters()).dtype
        share_out(frozen.model, frozen.computes_in)
    made = build_learner(
        mine,
        recipe,
        settings,
        sampling=sampling,
        num_updates=num_updates,
        dtype=dtype,
        reference=reference,
        value=value,
        ranks=ranks,
        make_optimizer=make_optimizer,
    )
    return ShardedLearner(made.scorer, made.optimizer, whole=whole if ranks.rank == 0 else None)
