"""The ordinary way to call any transformers model: rows side by side, or one row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upslope.model.hf import accepted
from upslope.model.layout import HasTokens, Tokens


def plain_call(rollouts: Sequence[HasTokens], padding: int, device: torch.device) -> dict[str, Any]:
    """Arguments for any transformers model, the ordinary way: rows padded on the right, with attention mask, and
    without one where there is one row alone."""
    rows = [list(r.prompt) + list(r.response[:-1]) for r in rollouts]
    width = max(map(len, rows))
    call = {"input_ids": torch.tensor([r + [padding] * (width - len(r)) for r in rows], device=device)}
    if len(rows) > 1:
        call["attention_mask"] = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device)
    return call | {"use_cache": False}


def trunk_only(call: dict[str, Any]) -> dict[str, Any]:
    """The same call without what concerns the head, for outputs at every position."""
    return {name: value for name, value in call.items() if name != "logits_to_keep"}


def before_tokens(out_NSX: Tensor, rollouts: Sequence[HasTokens]) -> Tensor:
    """[N, T, X] before each response token, of a plain call's outputs [N, S, X] at every position."""
    num_columns = max(len(r.response) for r in rollouts)
    first_N1 = torch.tensor([len(r.prompt) - 1 for r in rollouts], device=out_NSX.device)[:, None]
    index_NT = (first_N1 + torch.arange(num_columns, device=out_NSX.device)).clamp(max=out_NSX.shape[1] - 1)
    return torch.take_along_dim(out_NSX, index_NT[:, :, None], dim=1)


def whole_pass(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits [L, V] of one row, by one pass over its tokens, without a cache: what every other way is measured by."""
    call = plain_call([Tokens(tuple(ids), (0,), (True,))], 0, next(model.parameters()).device)
    return model(**accepted(model, call)).logits[0]  # type: ignore[no-any-return]


def row_by_itself(model: Any, rollout: HasTokens, turns: Sequence[int]) -> Tensor:
    """Logits [T, V] before each token of a response, by passes over the row alone: one, and one more for each of the
    ``lengths.turns`` that it goes beyond."""
    ids, first = (*rollout.prompt, *rollout.response), len(rollout.prompt)
    ends = sorted({*(t for t in turns if first <= t < len(ids) - 1), len(ids) - 1})
    found, done = [], first - 1
    for end in ends:
        found.append(whole_pass(model, ids[:end])[done:end])
        done = end
    return torch.cat(found)
