"""How likely a policy finds given texts, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from upslope.model.distribution import adjusted
from upslope.model.layout import Tokens
from upslope.model.policy import Policy
from upslope.rollout.joining import TokenTold, told_of
from upslope.types import Sampling

PIECE = 256
"""Rows of logits at once."""


@torch.no_grad()
def read_texts(policy: Policy, texts: Sequence[tuple[int, ...]], num_top: int) -> list[list[TokenTold]]:
    """Of every text all its tokens but the first, which nothing comes before: log pi(token | those before it) at
    temperature 1, as a learner scores them, and the ``num_top`` likeliest in its place."""
    longer = [text for text in texts if len(text) > 1]
    found: list[TokenTold] = []
    if longer:
        states = policy.states([Tokens(t[:1], t[1:], (True,) * (len(t) - 1)) for t in longer])
        for first in range(0, states.num_tokens, PIECE):
            piece = states.take(slice(first, first + PIECE))
            logits_RV = adjusted(policy.head(piece.source_RX), piece.column_R, Sampling(), policy.end_tensor)
            found += told_of(logits_RV.log_softmax(dim=1), piece.target_R, num_top)
    told = iter(found)
    return [[next(told) for _ in text[1:]] for text in texts]
