"""All learners made to stand where the first one stands."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from upslope.cluster.ranks import DistributedRanks
from upslope.cluster.sharding import ShardedLearner, sharded_learner
from upslope.learn.build import build_learner
from upslope.learn.learner import Learner
from upslope.learn.optimizer import Optimizer
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.company import BuildLearner


def builder(ranks: DistributedRanks, settings: ClusterSettings) -> BuildLearner:
    """What makes one of these learners: with all weights, or with its part of them."""
    if settings.shard:
        return functools.partial(sharded_learner, life=ranks.life)
    return functools.partial(build_learner, ranks=ranks)


def stand_together(learner: Learner, ranks: DistributedRanks) -> None:
    """Give every learner the first one's masters, moments, critic and reference, bit for bit: it alone has read a
    checkpoint, which may lie where the others cannot see it. Called by all of them."""
    first = ranks.rank == 0
    for optimizer in learner.optimizers:
        _as_first(optimizer, ranks)
    reference = learner.scorer.reference
    if reference is not None and reference.frozen is not None and not isinstance(learner, ShardedLearner):
        told: Any = _moved(reference.frozen.weights()) if first else None
        given = ranks.from_first(told)
        if not first:
            reference.frozen.take(given)


def _as_first(optimizer: Optimizer, ranks: DistributedRanks) -> None:
    mine = (_moved(optimizer.full_precision()), _moved(optimizer.state()), optimizer.num_done)
    weights, state, num_done = ranks.from_first(mine)
    if ranks.rank > 0:
        optimizer.set_weights(weights)
        optimizer.load(state, num_done)


def _moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}
