"""What a fast trunk is: a way of its own to compute a family's hidden states, and to decode with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from upslope.model.layout import Layout


class Decoder(Protocol):
    """A table of rows, each continuing a prompt of its own. Rows begin, advance together, and leave.

    Made for a number of rows and for ``max_tokens``: a row advances at most so many times after ``place``, so that
    token t of a response is drawn from the logits of advance t. Where ``slack`` is not 0, a row that ended may be
    carried along further, with any tokens; its logits mean nothing then, and other rows do not notice.
    """

    refills: bool
    """Whether ``place`` may be called again once rows have advanced."""
    slack: float
    """Share of finished rows that is cheaper carried along than dropped: 0 where ``keep`` costs nothing."""

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        """Row ``rows[i]`` begins anew with ``prompts[i]``; what it held is forgotten. Everything is computed but the
        prompt's last token, which the first ``advance`` brings. Equal prompts are computed once."""
        ...

    def advance(self, token_N: Tensor) -> Tensor:
        """Append a token to every row of the table; logits [N, V] before the next one."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Only these rows remain, numbered anew in this order."""
        ...

    def widen(self, num: int) -> None:
        """So many rows more, behind the others, as far as it was made for: each is placed before anybody advances. Only
        where it ``refills``."""
        ...

    def renew(self) -> None:
        """The model's weights are others now. Rows under way keep the keys and values that they have, and go on with
        the new weights; prompts that are placed from now on are computed with these, known or not."""
        ...


class FastTrunk(Protocol):
    """A model's body (``model.base_model``: embedding, layers, last norm) computed another way, with the body's own
    parameters: gradients arrive in them, and what is done to them is seen. Made anew at every use, so cheaply."""

    def states(self, layout: Layout, *, checkpointing: bool = False) -> Tensor:
        """The hidden states before each scored token, after the last norm, [R, C], with gradient where torch records
        one; ``checkpointing``: only what each layer was given is kept for the backward pass."""
        ...

    def decoder(self, head: nn.Module, num_rows: int, max_tokens: int) -> Decoder:
        """A table that decodes with the weights as they are now; ``head`` makes logits [N, V] of states [N, C]."""
        ...
