"""Slot ``regulariser``: what leash. A cost per token that the objective subtracts from the surrogate.

Still to be filled here: the KL to a frozen reference (k1, k2, k3, exact over the vocabulary) and entropy.
"""

from __future__ import annotations

from torch import Tensor

from upslope.types import Batch


def no_leash(logp_NT: Tensor, batch: Batch) -> Tensor | None:
    """Nothing holds the policy back. None rather than zeros: rows without advantage may then be skipped exactly."""
    return None
