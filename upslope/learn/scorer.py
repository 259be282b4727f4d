"""One pass over a micro-batch, cut in two: the trunk once for all its rows, the head and the objective in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from upslope.algo.outcome import Scored
from upslope.learn.chunks import chunks
from upslope.model.scores import most_tokens, token_scores
from upslope.model.states import States, rectangle
from upslope.types import Batch

if TYPE_CHECKING:
    from upslope.learn.learner import Learner


class Pass:
    """The trunk's pass over some rows (the policy's, and the reference's and the critic's if the recipe asks), and what
    follows from it: everything at once (``whole``), or chunk by chunk (``chunks``) with ``backward`` at the end.

    Hidden states and values are cut off between the two halves. Every chunk's own backward pass ends at that cut, frees
    the chunk's logits and leaves d loss / d hidden there; ``backward`` sends all of it through the trunk at once.
    """

    def __init__(self, learner: Learner, part: Batch) -> None:
        self._learner, self._part = learner, part
        with self._policy_grad():
            self._mine = learner.policy.states(part.rollouts)
        self._theirs, self._value_NT = None, None
        if "reference_kl" in learner.recipe.needs:
            self._theirs = learner.must_refer.states(part.rollouts)
        if learner.critic is not None:
            self._value_NT = learner.critic.values(part, learner.policy, self._mine)
        self._sources: list[Tensor] = []
        self._values: list[Tensor] = []

    def whole(self) -> Scored:
        """Scores of all rows, with their graph through head and trunk."""
        return self._scored(self._part, self._mine, self._theirs, self._value_NT)

    def chunks(self) -> Iterator[tuple[Batch, Scored]]:
        """Rows and their scores, with a graph as far as the cut; each must have its backward pass before the next."""
        most = most_tokens(self._learner.policy.vocabulary)
        for rows, tokens in chunks(self._part.mask_NT.sum(dim=1).tolist(), most):
            mine = self._mine.take(tokens).leaf()
            theirs = None if self._theirs is None else self._theirs.take(tokens)
            value_NT = None
            if self._value_NT is not None:
                value_NT = self._value_NT[rows.start : rows.stop].detach().requires_grad_(self._value_NT.requires_grad)
                self._values.append(value_NT)
            self._sources.append(mine.source_RX)
            piece = self._part.take(rows)
            yield piece, self._scored(piece, mine, theirs, value_NT)

    def backward(self) -> None:
        """From the cut through the trunk, for all chunks together."""
        ends = [(self._mine.source_RX, self._sources)]
        if self._value_NT is not None:
            ends.append((self._value_NT, self._values))
        slopes = [(whole, joined_slope(leaves)) for whole, leaves in ends if whole.requires_grad]
        reached = [(whole, slope) for whole, slope in slopes if slope is not None]
        if reached:
            torch.autograd.backward([whole for whole, _ in reached], [slope for _, slope in reached])

    def _policy_grad(self) -> AbstractContextManager[object]:
        """No graph of the policy while the critic alone learns."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and not self._learner.warming)

    def _scored(self, rows: Batch, mine: States, theirs: States | None, value_NT: Tensor | None) -> Scored:
        learner = self._learner
        with self._policy_grad():
            logp_R, entropy_R, divergence_R = token_scores(
                learner.policy,
                mine,
                learner.scoring,
                other=None if theirs is None else (learner.must_refer, theirs),
                entropy_gradient="entropy_gradient" in learner.recipe.needs,
            )
        return Scored(
            rectangle(logp_R, rows.mask_NT),
            rectangle(entropy_R, rows.mask_NT),
            None if divergence_R is None else rectangle(divergence_R, rows.mask_NT),
            value_NT,
        )


def joined_slope(leaves: Sequence[Tensor]) -> Tensor | None:
    """The gradients of consecutive pieces as one; None if none has any."""
    if all(leaf.grad is None for leaf in leaves):
        return None
    return torch.cat([torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves])
