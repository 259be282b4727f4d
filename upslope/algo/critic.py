"""Slot ``critic``: who predicts how well an attempt will end, from every state on the way.

A critic exists only in a recipe whose advantage needs values. Its loss is added to the policy's; its own weights have
an optimizer of their own. During the first ``warmup`` updates the critic alone learns: advantages against a critic
that knows nothing are returns with extra noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.algo.slots import Critic as Contract, kind
from upslope.types import Batch, given


@kind("critic")
def no_critic(scored: Scored, batch: Batch) -> Tensor | None:
    """Nobody predicts: attempts are compared with each other, or with nothing."""
    return None


def value_error(value_NT: Tensor, old_NT: Tensor, return_NT: Tensor, clip: float) -> Tensor:
    """max((V - G)^2, (clip(V, V_old - c, V_old + c) - G)^2) / 2 per token: the clipped value loss of PPO's reference
    code. Like the policy's clip it stops a value that already moved by c towards its target; 0 is no clipping."""
    plain_NT = (value_NT - return_NT) ** 2
    if not clip:
        return plain_NT / 2
    near_NT = old_NT + (value_NT - old_NT).clamp(-clip, clip)
    return torch.maximum(plain_NT, (near_NT - return_NT) ** 2) / 2


@dataclass(frozen=True)
class LearnedCritic(Contract):
    """What both kinds share: ``clip`` in units of reward, ``warmup`` updates, a learning rate ``rate`` times the
    policy's, and the ``lam`` of its targets, the lambda-returns (see ``upslope.algo.returns``).

    The targets' lambda is the critic's own. With the advantage's 0.95 the outcome's share in the target of the first of
    128 tokens would be 0.95^127 = 1.5e-3 and the critic's own belief the rest, so a critic that begins at 0 stays
    there. 1 is the reward to go, without bias (VC-PPO, arXiv 2503.01491, section 3.2; VAPO, arXiv 2504.05118).
    """

    clip: float = 0.2
    warmup: int = 40
    rate: float = 10.0
    lam: float = 1.0

    def __post_init__(self) -> None:
        if not (self.clip >= 0 and self.warmup >= 0 and self.rate > 0 and 0 <= self.lam <= 1):
            raise ValueError(f"needs clip >= 0, warmup >= 0, rate > 0 and 0 <= lam <= 1: {self}")

    @property
    def share(self) -> float:
        """What the critic's loss counts for beside the policy's."""
        return 1.0

    def __call__(self, scored: Scored, batch: Batch) -> Tensor | None:
        """The critic's loss per token, constant targets: see ``value_error``."""
        value_NT = given(scored.value_NT, "value_NT")
        old_NT, return_NT = given(batch.value_NT, "value_NT"), given(batch.return_NT, "return_NT")
        return self.share * value_error(value_NT, old_NT, return_NT, self.clip)


@kind("critic")
@dataclass(frozen=True)
class OwnCopy(LearnedCritic):
    """A value head on a copy of the model of its own: nothing is shared, at twice the memory (PPO as in arXiv
    1909.08593)."""


@kind("critic")
@dataclass(frozen=True)
class SharedTrunk(LearnedCritic):
    """A value head on the policy's own last hidden state: nearly free, but its loss, times ``weight``, bends the
    policy's weights too (during the warm-up the head alone learns)."""

    rate: float = 1.0
    weight: float = 0.1

    @property
    def share(self) -> float:
        return self.weight
