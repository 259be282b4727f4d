"""Conjugate gradients: solve A x = b knowing only products with A, a symmetric positive definite matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """``x`` and how far it got: ``residual`` is |b - A x| / |b|.

    ``curved`` is False if some direction p had p.Ap <= 0, which no positive definite matrix has: the products are
    then wrong or drowned in rounding, and ``x`` is what was reached before.
    """

    x: Tensor
    residual: float
    num_iterations: int
    curved: bool


def conjugate_gradients(product: Product, b: Tensor, *, iterations: int, tolerance: float = 1e-10) -> Solution:
    """x with A x = b, from x = 0 (Hestenes and Stiefel 1952); ends early once the residual is below ``tolerance``.

    Exact after as many iterations as A has distinct eigenvalues; before that the best x of the Krylov space, so few
    iterations already give most of the step (arXiv 1502.05477, appendix C).
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = start = float(residual @ residual)
    done = 0
    while done < iterations and square > tolerance**2 * start:
        image = product(direction)
        curvature = float(direction @ image)
        if not curvature > 0:
            return Solution(x, _share(square, start), done, curved=False)
        length = square / curvature
        x = x + length * direction
        residual = residual - length * image
        before, square = square, float(residual @ residual)
        direction = residual + (square / before) * direction
        done += 1
    return Solution(x, _share(square, start), done, curved=True)


def _share(square: float, start: float) -> float:
    return (square / start) ** 0.5 if start > 0 else 0.0
