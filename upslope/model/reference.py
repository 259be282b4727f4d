"""The frozen reference: the policy as it was when the run began."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from upslope.model.budgets import Budgets
from upslope.model.distribution import TokenDistributions
from upslope.model.layout import HasTokens
from upslope.model.policy import Policy
from upslope.model.states import States
from upslope.types import Sampling


class Reference:
    """The policy as it was at the start. One whose adapter began with the run is its own reference, with the
    adapter off; any other is copied once."""

    def __init__(self, policy: Policy, frozen: Policy | None) -> None:
        """``frozen`` None: the policy itself without its adapter."""
        self._policy, self.frozen = policy, frozen

    @staticmethod
    def of(policy: Policy) -> Reference:
        """A copy of the policy as it is now."""
        frozen = copy.deepcopy(policy.model)
        frozen.requires_grad_(False)
        return Reference(policy, Policy(frozen, policy.tokenizer, policy.renderer))

    @property
    def vocabulary(self) -> int:
        return self._policy.vocabulary

    @property
    def budgets(self) -> Budgets:
        """The policy's: both compute on one device, for one update."""
        return self._policy.budgets

    @property
    def end_tensor(self) -> Tensor:
        return self._policy.end_tensor

    @torch.no_grad()
    def distributions(self, rollouts: Sequence[HasTokens], sampling: Sampling) -> TokenDistributions:
        """The reference's distribution before each chosen token, without gradient."""
        with self._at_start() as policy:
            return policy.distributions(rollouts, sampling)

    @torch.no_grad()
    def states(self, rollouts: Sequence[HasTokens]) -> States:
        """Where the reference stands before each chosen token, without gradient."""
        with self._at_start() as policy:
            return policy.states(rollouts)

    @torch.no_grad()
    def head(self, source_CX: Tensor) -> Tensor:
        """Its logits [C, V], without gradient."""
        with self._at_start() as policy:
            return policy.head(source_CX)

    @contextlib.contextmanager
    def _at_start(self) -> Iterator[Policy]:
        if self.frozen is not None:
            yield self.frozen
        else:
            with self._policy.model.disable_adapter():
                yield self._policy
