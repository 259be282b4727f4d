"""When rewards count as equal: one definition, for the filter of groups, for every comparison, and for the journal.

Sums of the same terms in another order differ in their last places (0.1 + 0.2 against 0.3), and so does a number and
the mean of its copies. Divided by its own deviation such a difference becomes an advantage of size 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDINGS = 4 * 2.0**-23
"""Four last places of a float32 in [1, 2), relative to it; a power of two, so that multiplying by it rounds nothing."""


def alike(highest: Tensor, lowest: Tensor, size: Tensor | None = None) -> Tensor:
    """bool: highest - lowest <= 4 float32 roundings of the largest magnitude.

    The largest magnitude is that of the two, or ``size`` where they are differences of larger numbers. Compared in
    float32 whatever the dtype, so that a group has the same answer here, as floats of Python, and in every learner.
    """
    highest, lowest = highest.float(), lowest.float()
    largest = torch.maximum(highest.abs(), lowest.abs())
    if size is not None:
        largest = torch.maximum(largest, size.float())
    return highest - lowest <= ROUNDINGS * largest


def all_alike(values: Sequence[float]) -> bool:
    """Whether all of these are equal up to rounding; nothing at all is.

    >>> all_alike([0.1 + 0.2, 0.3]), all_alike([0.3, 0.3001])
    (True, False)
    """
    return not values or bool(alike(*torch.tensor([max(values), min(values)], dtype=torch.float64)))
