"""Scores of chosen tokens from hidden states, a bounded number of logits at a time."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from upslope.model.budgets import Budgets
from upslope.model.distribution import adjusted, chosen, divergence, entropy
from upslope.model.head import token_logps
from upslope.model.states import States
from upslope.types import Sampling

HEAD_BUDGET = 16 * 2**20
"""Logits held at once (entries) on a CPU."""


def most_tokens(vocabulary: int, budgets: Budgets | None = None) -> int:
    """How many tokens' logits may be held at once; without ``budgets``, on a CPU."""
    return max(1, (HEAD_BUDGET if budgets is None else budgets.logits(HEAD_BUDGET)) // vocabulary)


class LanguageModel(Protocol):
    """A policy, or a reference: whoever has a head."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def budgets(self) -> Budgets: ...
    @property
    def end_tensor(self) -> Tensor: ...
    def head(self, source_CX: Tensor) -> Tensor: ...


class TokenScores(NamedTuple):
    """Of R chosen tokens, each under the distribution it was drawn from."""

    logp_R: Tensor
    entropy_R: Tensor
    """In nats."""
    divergence_R: Tensor | None = None
    """Exact KL(this model || the other) before the token, in nats."""


def token_scores(
    model: LanguageModel,
    states: States,
    sampling: Sampling,
    *,
    other: tuple[LanguageModel, States] | None = None,
    entropy_gradient: bool = False,
) -> TokenScores:
    """How likely the model finds the tokens; with ``other``, a model and its states before the same tokens, how far the
    two are apart. logp and divergence carry gradient, entropy does so on request; the other has none.

    More tokens than ``most_tokens`` are scored in pieces, each of which is computed again in the backward pass.
    """

    def score(tokens: slice) -> tuple[Tensor, ...]:
        mine = states.take(tokens)
        logits_CV = model.head(mine.source_RX)
        if other is None and not entropy_gradient:
            return token_logps(logits_CV, mine.target_R, mine.column_R, sampling, model.end_tensor)
        logp_CV = adjusted(logits_CV, mine.column_R, sampling, model.end_tensor).log_softmax(dim=1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and entropy_gradient):
            entropy_C = entropy(logp_CV)
        logp_C = chosen(logp_CV, mine.target_R)
        if other is None:
            return logp_C, entropy_C
        with torch.no_grad():
            other_CV = other[0].head(other[1].take(tokens).source_RX)
            other_CV = adjusted(other_CV, mine.column_R, sampling, model.end_tensor).log_softmax(dim=1)
        return logp_C, entropy_C, divergence(logp_CV, other_CV)

    num, most = states.num_tokens, most_tokens(model.vocabulary, model.budgets)
    if num <= most:
        return TokenScores(*score(slice(0, num)))
    pieces = [
        checkpoint(score, slice(start, start + most), use_reentrant=False, preserve_rng_state=False)
        for start in range(0, num, most)
    ]
    return TokenScores(*map(torch.cat, zip(*pieces, strict=True)))


@torch.no_grad()
def likeliest(model: LanguageModel, states: States, sampling: Sampling, num: int) -> tuple[Tensor, Tensor]:
    """(ids [R, K], log-probabilities [R, K]) of the K = ``num`` likeliest tokens before each chosen one, likeliest
    first, under the distribution that it was drawn from. A pass of the head of its own."""
    most, found = most_tokens(model.vocabulary, model.budgets), []
    for start in range(0, states.num_tokens, most):
        part = states.take(slice(start, start + most))
        logits_CV = model.head(part.source_RX)
        logp_CV = adjusted(logits_CV, part.column_R, sampling, model.end_tensor).log_softmax(dim=1)
        found.append(logp_CV.topk(min(num, logp_CV.shape[1]), dim=1))
    logps, ids = zip(*found, strict=True)
    return torch.cat(ids), torch.cat(logps)
