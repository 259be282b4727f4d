"""Muon: a matrix moves against its momentum with all singular values brought near 1."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from upslope.native.onednn import cpu_gains_by_bf16

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Jordan's: p(x) = a x + b x^3 + c x^5 rises as steeply as can be at 0 and keeps (0, 1] within about [0.7, 1.2]."""
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Of matrices [A, B] alone: M <- mu M + (1 - mu) G, and W <- (1 - eta lambda) W - 0.2 eta sqrt(max(A, B)) O.

    O is (1 - mu) G + mu M (Nesterov's look ahead) with its singular values near 1; 0.2 sqrt(max(A, B)) makes the root
    mean square of the step AdamW's. Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the step's
    size: arXiv 2502.16982, section 2.2.

    It moves as ``torch.optim.Muon`` does, with state of the same name. That one multiplies in bfloat16 whatever the
    processor, and takes ten times as long where the processor has no such products.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                turned = orthogonalised(weight.grad.lerp(mean, momentum), products_in(weight.device))
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(turned, alpha=-0.2 * rate * math.sqrt(max(weight.shape)))


def products_in(device: torch.device) -> torch.dtype:
    """The precision in which products are made fastest there; five iterations need no more than bfloat16."""
    gains = cpu_gains_by_bf16() if device.type == "cpu" else device.type == "cuda"
    return torch.bfloat16 if gains else torch.float32


def orthogonalised(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """U S' V^T of a matrix U S V^T, with S' between about 0.7 and 1.2: ``ITERATIONS`` of Newton and Schulz on
    X = matrix / ||matrix||, X <- a X + (b X X^T + c (X X^T)^2) X, with products made in ``dtype``."""
    a, b, c = COEFFICIENTS
    upright = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    x = x.T if upright else x  # the smaller of the two Gram matrices
    x = x / x.norm().clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if upright else x
