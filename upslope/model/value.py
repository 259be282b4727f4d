"""The critic's network: a linear head on hidden states, of a copy of the model or of the policy itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from upslope.model import attention
from upslope.model.hf import attention_in_use, text_config
from upslope.model.policy import Policy
from upslope.model.trunk import trunk_of
from upslope.types import Rollout


class ValueModel(nn.Module):
    """V(state) before each chosen token: w . h + b, with h the last hidden state there. Starts at 0 everywhere, which
    is the honest guess of one that knows nothing, and the same for every seed."""

    def __init__(self, width: int, trunk: nn.Module | None) -> None:
        """``trunk`` is the copy of the model's body to read; None: whoever asks brings the policy's hidden states."""
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def read(self, hidden_RD: Tensor) -> Tensor:
        """Values of hidden states, shape R, in at least float32."""
        value_R: Tensor = self.head(hidden_RD.to(self.head.weight.dtype))[:, 0]
        return value_R if value_R.dtype == torch.float64 else value_R.float()

    def hidden(self, rollouts: Sequence[Rollout], policy: Policy) -> Tensor:
        """The trunk's own hidden states before each chosen token, [R, D], laid out like the policy's."""
        assert self.trunk is not None, "a critic on the policy's trunk reads the policy's hidden states"
        if policy.packs and attention_in_use(self.trunk) != attention.NAME:
            raise RuntimeError("the critic's copy was made before the policy's attention was chosen")
        return policy.hidden(self.trunk, rollouts)[1]


def value_model(model: Any, *, own_copy: bool) -> ValueModel:
    """A critic for this causal LM: on a copy of its body, all of it trainable, or on its own hidden states.

    The copy shares no storage with the model and runs with the same attention, which must have been chosen by now
    (``admission.admit``). Make it before adapters are added: it is trained whole.
    """
    trunk = copy.deepcopy(trunk_of(model)) if own_copy else None  # with an adapter's layers, if there are any
    if trunk is not None:
        trunk.requires_grad_(True)
    made = ValueModel(int(text_config(model).hidden_size), trunk)
    return made.to(device=next(model.parameters()).device)
