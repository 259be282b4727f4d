"""Slot ``correction``: what to do when the sampler and the learner disagree about a token's probability.

Still to be filled here: truncated importance weights and masking. The gap itself is measured at every step,
whatever stands in this slot.
"""

from __future__ import annotations

from torch import Tensor

from upslope.types import Batch


def no_correction(batch: Batch) -> Tensor | None:
    """Trust the sampler: no weight per token."""
    return None
