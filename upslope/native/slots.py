"""Where a table's rows lie."""

from __future__ import annotations

from torch import Tensor


def free_slots(slot_N: Tensor, most: int, num: int) -> Tensor:
    """The least ``num`` of ``most`` slots that no row has. Raises RuntimeError where there are fewer."""
    free = sorted(set(range(most)) - set(slot_N.tolist()))[:num]
    if len(free) < num:
        raise RuntimeError(f"a table of {most} rows has no room for {num} beside {len(slot_N)}")
    return slot_N.new_tensor(free)
