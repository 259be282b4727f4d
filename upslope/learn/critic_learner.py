"""The critic at work: its values as rectangles, its optimizer, and when its warm-up is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from upslope.algo.critic import LearnedCritic
from upslope.algo.outcome import Stats
from upslope.learn.optimizer import LocalOptimizer, MakeOptimizer, Optimizer
from upslope.model.policy import Policy
from upslope.model.states import States, rectangle
from upslope.model.value import ValueModel
from upslope.types import Batch


@dataclass
class CriticLearner:
    """A value model with an optimizer of its own. ``slot`` is the recipe's critic."""

    slot: LearnedCritic
    model: ValueModel
    optimizer: Optimizer

    @property
    def shares(self) -> bool:
        """Whether it reads the policy's own hidden states."""
        return self.model.trunk is None

    @property
    def warming(self) -> bool:
        """Counted in updates, so that a resumed run knows it from the optimizer alone."""
        return self.optimizer.num_done < self.slot.warmup

    def values(self, batch: Batch, policy: Policy, states: States | None) -> Tensor:
        """V(state before token t), [N, T], zero outside the mask. ``states`` are the policy's of this very batch
        (``Policy.states``), for a critic that shares them; while it warms up, they are read without gradient."""
        if not self.shares:
            hidden_RD = self.model.hidden(batch.rollouts, policy)
        elif states is not None:
            hidden_RD = states.hidden_RD.detach() if self.warming else states.hidden_RD
        else:
            raise RuntimeError("a critic on the policy's trunk was asked for values without hidden states")
        return rectangle(self.model.read(hidden_RD), batch.mask_NT)

    def state(self) -> dict[str, Tensor]:
        """Weights in full precision and optimizer state, flat, for a checkpoint."""
        weights = {f"weights/{n}": w for n, w in self.optimizer.full_precision().items()}
        return weights | {f"optimizer/{n}": t for n, t in self.optimizer.state().items()}

    def load(self, state: dict[str, Tensor], num_done: int) -> None:
        """Continue from a saved ``state``."""
        weights, of_optimizer = parts_of_critic(state)
        self.optimizer.set_weights(weights)
        self.optimizer.load(of_optimizer, num_done)

    def step(self) -> Stats:
        """One step of its optimizer; names tell it from the policy's."""
        stats = self.optimizer.step()
        return {"value_grad_norm": stats["grad_norm"]}


def parts_of_critic(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights, optimizer's state) of what ``CriticLearner.state`` made one of.

    >>> import torch
    >>> parts_of_critic({"weights/head.bias": torch.zeros(1), "optimizer/step/head.bias": torch.ones(())})
    ({'head.bias': tensor([0.])}, {'step/head.bias': tensor(1.)})
    """
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}}
    for key, tensor in state.items():
        kind, _, name = key.partition("/")
        parts[kind][name] = tensor
    return parts["weights"], parts["optimizer"]


def make_critic(
    slot: LearnedCritic,
    model: ValueModel,
    optimizer_of: Optimizer,
    num_updates: int,
    make_optimizer: MakeOptimizer = LocalOptimizer,
) -> CriticLearner:
    """A critic whose optimizer follows the policy's settings at ``slot.rate`` times its learning rate, over all updates
    (the policy's begin after the warm-up). Its head computes in full precision: a difference of two values in bfloat16
    would be mostly rounding."""
    settings = optimizer_of.settings
    faster = replace(settings, lr=(settings.lr or 0.0) * slot.rate)
    full = frozenset(n for n, _ in model.named_parameters() if n.startswith("head."))
    return CriticLearner(slot, model, make_optimizer(model, faster, num_updates, optimizer_of.dtype, full))
