"""Which of a model's logits are of tokens that its tokenizer knows. Embeddings are often padded to a round number of
rows, and nobody could read what the others say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upslope.errors import UserError


def unknown_ids(tokenizer: Any, vocabulary: int, end_ids: Sequence[int]) -> Tensor:
    """The ids below ``vocabulary`` that the tokenizer does not know, in order; those that end a response are known.
    None where the tokenizer cannot list what it knows."""
    if not hasattr(tokenizer, "get_vocab"):
        return torch.empty(0, dtype=torch.long)
    unknown = torch.ones(vocabulary, dtype=torch.bool)
    known = [i for i in (*tokenizer.get_vocab().values(), *end_ids) if 0 <= i < vocabulary]
    unknown[torch.tensor(known, dtype=torch.long)] = False
    return unknown.nonzero()[:, 0]


def outgrown(tokenizer: Any, num_embedded: int) -> tuple[str, ...]:
    """In a line, that the tokenizer has tokens that an embedding of so many rows has no row for; none where it has
    none."""
    names = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    more = [name for name, i in names.items() if i >= num_embedded]
    if not more:
        return ()
    rest = f" and {len(more) - 1} more tokens" if len(more) > 1 else ""
    return (f"the tokenizer has {more[0]!r}{rest}, and the model no embedding for it: texts with it are refused",)


def require_embedded(tokenizer: Any, ids: Sequence[int], num_embedded: int) -> None:
    """Raise UserError for a text with a token that the embedding has no row for."""
    largest = max(ids, default=0)
    if largest >= num_embedded:
        token = next((name for name, i in tokenizer.get_vocab().items() if i == largest), "")
        raise UserError(
            f"the text has the token {token!r}, number {largest} of the tokenizer, and the model's embedding has "
            f"{num_embedded} rows: the tokenizer was given tokens and the model was not; call "
            "model.resize_token_embeddings(len(tokenizer)) and save it, or take the token out"
        )


class NeverDrawn:
    """Some tokens, whose logits are made -inf wherever a distribution begins: where a token is drawn, and where it is
    scored."""

    def __init__(self, ids: Tensor, vocabulary: int) -> None:
        self.ids = ids
        first = int(ids[0]) if len(ids) else vocabulary
        self._tail = first if len(ids) == vocabulary - first else None  # mostly, and then no index is needed

    @torch.no_grad()
    def ban_(self, logits_RV: Tensor) -> Tensor:
        """In place, and outside of what is differentiated: a softmax gives these entries no gradient."""
        if len(self.ids):
            if self._tail is not None:
                logits_RV.detach()[:, self._tail :] = -torch.inf
            else:
                if self.ids.device != logits_RV.device:  # once: later, to send it would be to wait
                    self.ids = self.ids.to(logits_RV.device)
                logits_RV.detach()[:, self.ids] = -torch.inf
        return logits_RV
