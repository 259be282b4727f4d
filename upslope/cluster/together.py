"""All learners made to stand where the first one stands."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from upslope.cluster.ranks import DistributedRanks
from upslope.cluster.sharded_optimizer import ShardedOptimizer
from upslope.cluster.sharding import ShardedLearner, sharded_learner
from upslope.learn.build import build_learner
from upslope.learn.critic_learner import parts_of_critic
from upslope.learn.learner import Learner
from upslope.learn.optimizer import Optimizer
from upslope.record.checkpoint import Checkpoint
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.company import BuildLearner


def builder(ranks: DistributedRanks, settings: ClusterSettings) -> BuildLearner:
    """What makes one of these learners: with all weights, or with its part of them."""
    if settings.shard:
        return functools.partial(sharded_learner, life=ranks.life)
    return functools.partial(build_learner, ranks=ranks)


def stand_together(learner: Learner, ranks: DistributedRanks, saved: Checkpoint | None = None) -> None:
    """Give every learner the first one's masters, moments, critic and reference, bit for bit: it alone has read a
    checkpoint, which may lie where the others cannot see it. Called by all of them.

    Of learners in shards nobody holds the whole, so the first one reads ``saved``, what it goes on from, once more;
    where it is None the run begins, and all is as it was built."""
    if isinstance(learner, ShardedLearner):
        _share_out(learner, saved)
        return
    first = ranks.rank == 0
    for optimizer in learner.optimizers:
        _as_first(optimizer, ranks)
    reference = learner.scorer.reference
    if reference is not None and reference.frozen is not None:
        told: Any = _moved(reference.frozen.weights()) if first else None
        given = ranks.from_first(told)
        if not first:
            reference.frozen.take(given)


def _share_out(learner: ShardedLearner, saved: Checkpoint | None) -> None:
    """Policy and reference are the first one's since they were built, of the model that was read."""
    whole: list[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]] = [({}, {}) for _ in learner.optimizers]
    if saved is not None:
        whole[0] = {}, saved.optimizer()
        whole[1:] = [parts_of_critic(saved.critic()) for _ in whole[1:]]
    for optimizer, (weights, state) in zip(learner.optimizers, whole, strict=True):
        assert isinstance(optimizer, ShardedOptimizer)
        optimizer.share_out(weights, state, optimizer.num_done)


def _as_first(optimizer: Optimizer, ranks: DistributedRanks) -> None:
    mine = (_moved(optimizer.full_precision()), _moved(optimizer.state()), optimizer.num_done)
    weights, state, num_done = ranks.from_first(mine)
    if ranks.rank > 0:
        optimizer.set_weights(weights)
        optimizer.load(state, num_done)


def _moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}
