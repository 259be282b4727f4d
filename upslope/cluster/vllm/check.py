"""Whether the sampler writes with the weights it was given: a handful of sequences, scored by both sides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from upslope.errors import UserError
from upslope.model.policy import Policy
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.types import Rollout, Sampling

LENGTHS = (4, 12, 48, 160)
"""Tokens of the prompts. The longest fills a block of any prefix cache, so that keys and values that were kept from
older weights are used, and seen."""
DRAWN = 8
"""Tokens that the sampler writes after each."""
ADDRESS = Address(0, "handover")


def check_requests(vocabulary: int, max_positions: int) -> list[Request]:
    """The same prompts at every check: tokens at random, by address."""
    found = []
    for length in LENGTHS:
        num = min(length, max(1, max_positions - DRAWN))
        uniforms = ADDRESS.uniforms([(f"handover/{length}", 0)], num)[0]
        found.append(Request(f"handover/{length}", 0, tuple(int(u * vocabulary) for u in uniforms)))
    return found


class GapCheck:
    """Compares a sampler with the policy whose weights it was given."""

    def __init__(self, policy: Policy, most: float, max_positions: int) -> None:
        """``most``: nats by which the two may differ over a token."""
        self._policy, self._most = policy, most
        self._sampling = Sampling(max_tokens=min(DRAWN, max_positions - 1))
        self._requests = check_requests(min(policy.vocabulary, len(policy.tokenizer)), max_positions)

    def require(self, write: Callable[[Sequence[Request], Sampling, Address], list[Rollout]], version: int) -> float:
        """The gap, max |log q(y) of the sampler - log q(y) of the policy| over all tokens y that the sampler wrote, in
        nats. Raises UserError if it is above the bound, or no number."""
        gap = self.measure(write(self._requests, self._sampling, ADDRESS))
        if not gap <= self._most:
            raise UserError(
                f"weights of version {version}: the vLLM server's log-probabilities differ from the learner's by up to "
                f"{gap:.3g} nats, and cluster.most_gap allows {self._most:g}, so it does not write with the weights it "
                "was given; see 'When the gap is large' in docs/vllm.md"
            )
        return gap

    @torch.no_grad()
    def measure(self, rollouts: Sequence[Rollout]) -> float:
        """The gap over these rollouts. NaN if there is one in either."""
        ours_NT, _ = self._policy.score(rollouts, self._sampling, max(len(r.response) for r in rollouts))
        gaps = [
            abs(theirs - ours)
            for rollout, ours_T in zip(rollouts, ours_NT.tolist(), strict=True)
            for theirs, ours in zip(rollout.logp or (), ours_T, strict=False)  # a row of the rectangle is padded
        ]
        return float(max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap))
