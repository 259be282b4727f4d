"""From logits to the log-probability of the chosen tokens, in one buffer a vocabulary wide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from upslope.model.distribution import adjusted, ban_, chosen, entropy
from upslope.native.ops import ops_for
from upslope.types import Sampling

CPU_BLOCK = 2**19
"""Logits worked on at once, so that float32 copies of them stay in the cache; other devices take 32 times as many."""


def token_logps(
    logits_CV: Tensor, target_C: Tensor, position_C: Tensor, sampling: Sampling, end_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """(logp_C, entropy_C): log q(y_c) of the chosen tokens y_c = ``target_C``, with gradient, and the entropy of q in
    nats, without. q = softmax(``adjusted``(logits)): temperature, and no end before ``min_tokens``.

        d log q(y) / d logits_v = ([v = y] - q_v) / temperature

    The logits are used up: they are kept for the backward pass, which writes their gradient over them, in their own
    dtype. So one backward pass is all there is. Both results are in at least float32.
    """
    logp_C, entropy_C = _TokenLogps.apply(logits_CV, target_C, position_C, sampling, end_ids)  # type: ignore[no-untyped-call]
    return logp_C, entropy_C


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_CV: Tensor, target_C: Tensor, position_C: Tensor, sampling: Sampling, end_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sampling, ctx.peak_C2 = sampling, None
        ctx.ops = ops_for(logits_CV.device, logits_CV.dtype)
        if ctx.ops.fast:
            logits_CV, target_C = logits_CV.contiguous(), target_C.contiguous()
            ban_(logits_CV, position_C, sampling, end_ids)
            logp_C, entropy_C, ctx.peak_C2 = ctx.ops.logps(logits_CV, target_C, _scale(sampling))
            ctx.save_for_backward(logits_CV, target_C)
            ctx.mark_non_differentiable(entropy_C)
            return logp_C, entropy_C
        dtype = torch.float64 if logits_CV.dtype == torch.float64 else torch.float32
        logp_C, entropy_C = (logits_CV.new_empty(len(logits_CV), dtype=dtype) for _ in range(2))
        for rows in _blocks(logits_CV):
            logp_BV = adjusted(logits_CV[rows], position_C[rows], sampling, end_ids).log_softmax(dim=1)
            logp_C[rows] = chosen(logp_BV, target_C[rows])
            entropy_C[rows] = entropy(logp_BV)
        ctx.save_for_backward(logits_CV, target_C, position_C, end_ids)
        ctx.mark_non_differentiable(entropy_C)
        return logp_C, entropy_C

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope_C: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.peak_C2 is not None:
            logits_CV, target_C = ctx.saved_tensors
            ctx.ops.logps_backward_(logits_CV, target_C, _scale(ctx.sampling), ctx.peak_C2, slope_C.contiguous())
            return logits_CV, None, None, None, None
        logits_CV, target_C, position_C, end_ids = ctx.saved_tensors
        slope_C1 = (slope_C / _scale(ctx.sampling))[:, None]
        for rows in _blocks(logits_CV):
            prob_BV = adjusted(logits_CV[rows], position_C[rows], ctx.sampling, end_ids).softmax(dim=1)
            slope_BV = prob_BV.mul_(-slope_C1[rows]).scatter_add_(1, target_C[rows, None], slope_C1[rows])
            logits_CV[rows] = slope_BV
        return logits_CV, None, None, None, None


def _scale(sampling: Sampling) -> float:
    """What logits are divided by."""
    return 1.0 if sampling.greedy else sampling.temperature


def _blocks(logits_CV: Tensor) -> Iterator[slice]:
    num_rows, vocabulary = logits_CV.shape
    size = max(1, (CPU_BLOCK if logits_CV.device.type == "cpu" else 32 * CPU_BLOCK) // vocabulary)
    for start in range(0, num_rows, size):
        yield slice(start, start + size)
