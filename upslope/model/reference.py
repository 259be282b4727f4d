"""The frozen reference: the policy as it was when the run began."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch

from upslope.model.policy import Policy, Said
from upslope.types import Rollout, Sampling


class Reference:
    """Says what the start would have said. A policy whose adapter began with the run is its own reference, with the
    adapter off; any other is copied once."""

    def __init__(self, policy: Policy, frozen: Policy | None) -> None:
        """``frozen`` None: the policy itself without its adapter."""
        self._policy, self.frozen = policy, frozen

    @staticmethod
    def of(policy: Policy) -> Reference:
        """A copy of the policy as it is now."""
        frozen = copy.deepcopy(policy.model)
        frozen.requires_grad_(False)
        return Reference(policy, Policy(frozen, policy.tokenizer))

    @torch.no_grad()
    def say(self, rollouts: Sequence[Rollout], sampling: Sampling) -> Said:
        """The reference's distribution before each chosen token, without gradient."""
        if self.frozen is not None:
            return self.frozen.say(rollouts, sampling)
        with self._without_adapter():
            return self._policy.say(rollouts, sampling)

    @contextlib.contextmanager
    def _without_adapter(self) -> Iterator[None]:
        with self._policy.model.disable_adapter():
            yield
