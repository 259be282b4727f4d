"""What a trunk leaves for the head: a hidden state before every scored token. Between the two a pass is cut, so that
the head, whose logits are a vocabulary wide, can be applied to a few tokens at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from upslope.model.layout import Layout


@dataclass(frozen=True)
class States:
    """Where a model stands before each of R chosen tokens, in the order of rollouts and of their tokens."""

    hidden_RD: Tensor
    """The trunk's last hidden states, after the final norm."""
    target_R: Tensor
    """The token that was chosen."""
    row_R: Tensor
    column_R: Tensor
    """Which rollout, and which token of its response."""
    logits_RV: Tensor | None = None
    """All logits; only from a model whose head cannot be applied apart from it."""

    @staticmethod
    def of(layout: Layout, hidden_RD: Tensor, logits_RV: Tensor | None = None) -> States:
        return States(hidden_RD, layout.target_R, layout.row_R, layout.column_R, logits_RV)

    @property
    def num_tokens(self) -> int:
        return len(self.target_R)

    @property
    def source_RX(self) -> Tensor:
        """What ``Policy.head`` makes logits of: hidden states, or logits that are there already."""
        return self.hidden_RD if self.logits_RV is None else self.logits_RV

    def take(self, tokens: slice) -> States:
        """Consecutive tokens."""
        logits_RV = None if self.logits_RV is None else self.logits_RV[tokens]
        return States(
            self.hidden_RD[tokens], self.target_R[tokens], self.row_R[tokens], self.column_R[tokens], logits_RV
        )

    def leaf(self) -> States:
        """The same values cut off from the trunk: a backward pass ends here and leaves its gradient in the source."""
        source_RX = self.source_RX.detach().requires_grad_(self.source_RX.requires_grad)
        if self.logits_RV is None:
            return replace(self, hidden_RD=source_RX)
        return replace(self, hidden_RD=self.hidden_RD.detach(), logits_RV=source_RX)


def rectangle(value_R: Tensor, mask_NT: Tensor) -> Tensor:
    """Values of the chosen tokens, [R] or [R, K], in the order of rollouts and of their tokens, at their places among
    zeros."""
    shape = (*mask_NT.shape, *value_R.shape[1:])
    return value_R.new_zeros(shape).index_put(mask_NT.nonzero(as_tuple=True), value_R)
