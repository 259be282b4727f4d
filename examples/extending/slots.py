"""Slots of one's own: an advantage, a surrogate with a field, and a look at the whole update.

upslope train recipe.advantage=examples/extending/slots.py:best_of_group --recipe grpo
upslope train --recipe examples/extending/slots.py:MINE
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

import upslope as up
from upslope.algo.slots import Correction, Surrogate


@up.kind("advantage", compares="group")
def best_of_group(batch):
    """1 for the attempts that reach the best reward of their group, else 0."""
    best_N = torch.stack([batch.reward_N[batch.group_N == g].max() for g in batch.group_N])
    return torch.where(batch.mask_NT, (batch.reward_N == best_N).to(batch.reward_N.dtype)[:, None], 0)


@up.kind("surrogate")
@dataclass(frozen=True)
class TanhRatio(Surrogate):
    """(1 + width tanh(log r / width)) A: the ratio itself near 1, and never farther than ``width`` from it."""

    width: float = 0.3
    needs: ClassVar[frozenset[str]] = frozenset({"old_logp"})

    def __call__(self, scored, batch):
        log_NT = torch.where(batch.mask_NT, scored.logp_NT - batch.old_logp_NT, 0)
        return (1 + self.width * torch.tanh(log_NT / self.width)) * batch.advantage_NT


@up.kind("correction")
@dataclass(frozen=True)
class RarestTokens(Correction):
    """Only the ``share`` of the update's tokens that the sampler found least likely get a gradient."""

    share: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"sampler_logp"})
    reweighs: ClassVar[bool] = False

    def over_update(self, batch):
        bound = batch.sampler_logp_NT[batch.mask_NT].quantile(self.share)
        return batch.mask_NT & (batch.sampler_logp_NT <= bound)

    def __call__(self, scored, batch):
        return batch.marks["correction"].to(scored.logp_NT.dtype)


MINE = up.GRPO.patch(advantage=best_of_group, surrogate=TanhRatio(), correction=RarestTokens(0.3))
