"""All learners made to stand where the first one stands."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upslope.cluster.ranks import DistributedRanks
from upslope.learn.learner import Learner
from upslope.learn.optimizer import Optimizer


def stand_together(learner: Learner, ranks: DistributedRanks) -> None:
    """Give every learner the first one's masters, moments, critic and reference, bit for bit: it alone has read a
    checkpoint, which may lie where the others cannot see it. Called by all of them."""
    first = ranks.rank == 0
    for optimizer in learner.optimizers:
        _as_first(optimizer, ranks)
    reference = learner.scorer.reference
    if reference is not None and reference.frozen is not None:
        weights = reference.frozen.weights()
        given = ranks.from_first({n: w.cpu() for n, w in weights.items()} if first else None)
        if not first:
            _copy(weights, given)


def _as_first(optimizer: Optimizer, ranks: DistributedRanks) -> None:
    first = ranks.rank == 0
    told: Any = None
    if first:
        told = (_moved(optimizer.full_precision()), _moved(optimizer.state()), optimizer.num_done)
    weights, state, num_done = ranks.from_first(told)
    if not first:
        optimizer.set_weights({n: w.to(m.device) for (n, w), m in _paired(weights, optimizer)})
        optimizer.load(state, num_done)


def _moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _paired(weights: dict[str, Tensor], optimizer: Optimizer) -> list[tuple[tuple[str, Tensor], Tensor]]:
    return [((name, weights[name]), master) for name, master in optimizer.masters.items()]


def _copy(into: Any, weights: dict[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.data.copy_(weights[name])
