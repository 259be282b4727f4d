"""What a slot gave, looked at before anything is made of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from upslope.algo.recipe import show
from upslope.errors import UserError
from upslope.types import Batch

GIVES = {
    "shape": "reward_NT",
    "advantage": "advantage_NT",
    "surrogate": "value_NT",
    "critic": "error_NT",
    "regulariser": "cost_NT",
    "aggregate": "weight_NT",
    "correction": "factor_NT",
}


def require_rectangle(slot: str, value: Any, found: Any, batch: Batch, *, of: str = "") -> Tensor:
    """``found``, which the slot's ``value`` (or its method ``of``) gave for the batch. Raises UserError unless it is
    one number for every token: a tensor of N rollouts by T tokens."""
    wanted = tuple(batch.mask_NT.shape)
    if isinstance(found, Tensor) and tuple(found.shape) == wanted:
        return found if found.is_floating_point() else found.to(batch.reward_N.dtype)  # a mask counts as 0 and 1
    shape = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    name = GIVES.get(slot, "values") if not of else f"{of}_NT"
    raise UserError(
        f"{slot}={show(value)}{'.' + of if of else ''} gave {shape}; wanted is {name}, one value for each of "
        f"{wanted[0]} rollouts and {wanted[1]} tokens: {list(wanted)}"
    )
