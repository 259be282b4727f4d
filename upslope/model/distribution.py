"""From logits to the distribution tokens are drawn from: one function, read by the sampler and by the learner."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.model.layout import Layout
from upslope.types import Sampling


def adjusted(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> Tensor:
    """Logits whose softmax is the sampling distribution, in at least float32.

    Row r stands before token number ``position_R[r]`` of its response (0 is the first). In order: temperature, the
    end tokens banned while the response is shorter than ``min_tokens``, top-k, top-p. Greedy decoding (temperature
    0) leaves the scale alone. Banned tokens get -inf.
    """
    logits_RV = logits_RV if logits_RV.dtype == torch.float64 else logits_RV.float()
    if not sampling.greedy and sampling.temperature != 1:
        logits_RV = logits_RV / sampling.temperature
    if sampling.min_tokens:
        logits_RV = logits_RV.clone()
        ban_(logits_RV, position_R, sampling, end_ids)
    if 0 < sampling.top_k < logits_RV.shape[1]:
        least_R1 = logits_RV.topk(sampling.top_k, dim=1).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < least_R1, -torch.inf)
    if sampling.top_p < 1:
        sorted_RV, order_RV = logits_RV.sort(dim=1, descending=True)
        share_RV = sorted_RV.softmax(dim=1)
        before_RV = share_RV.cumsum(dim=1) - share_RV
        cut_RV = torch.zeros_like(before_RV, dtype=torch.bool).scatter(1, order_RV, before_RV >= sampling.top_p)
        logits_RV = logits_RV.masked_fill(cut_RV, -torch.inf)
    return logits_RV


def ban_(logits_RV: Tensor, position_R: Tensor, sampling: Sampling, end_ids: Tensor) -> None:
    """Put -inf on the end tokens of rows that stand before ``min_tokens``, in place."""
    if sampling.min_tokens:
        early_R = position_R < sampling.min_tokens
        logits_RV[:, end_ids] = logits_RV[:, end_ids].masked_fill(early_R[:, None], -torch.inf)


def chosen(logp_RV: Tensor, target_R: Tensor) -> Tensor:
    """log p of one token a row, shape R."""
    return logp_RV.gather(1, target_R[:, None])[:, 0]


def entropy(logp_RV: Tensor) -> Tensor:
    """-sum_v p log p in nats, shape R; a banned token (log p = -inf) adds nothing."""
    return -(logp_RV.exp() * logp_RV.masked_fill(logp_RV == -torch.inf, 0)).sum(dim=1)


def divergence(logp_RV: Tensor, other_RV: Tensor) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q) in nats, shape R; what p bans adds nothing."""
    banned_RV = logp_RV == -torch.inf
    difference_RV = logp_RV.masked_fill(banned_RV, 0) - other_RV.masked_fill(banned_RV, 0)
    return (logp_RV.exp() * difference_RV).sum(dim=1)


@dataclass(frozen=True)
class TokenDistributions:
    """A model's distribution before each of R chosen tokens, and where these stand."""

    layout: Layout
    logp_RV: Tensor
    """log pi(v | state) for every token v of the vocabulary; -inf for a banned one."""

    @property
    def logp_R(self) -> Tensor:
        """Of the token that was chosen."""
        return chosen(self.logp_RV, self.layout.target_R)

    def rectangle(self, value_R: Tensor, shape: tuple[int, int]) -> Tensor:
        """Values of chosen tokens at their places in an NT rectangle of zeros."""
        return value_R.new_zeros(shape).index_put((self.layout.row_R, self.layout.column_R), value_R)
