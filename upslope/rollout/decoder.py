"""Next-token logits for many rows, a token at a time: ours over a shared prompt, and the ordinary way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from upslope.model.cache import Cache
from upslope.model.layout import lay_out
from upslope.model.policy import Policy
from upslope.types import Rollout


class Decoder(Protocol):
    """``start``, then ``advance`` for every token; ``keep`` drops finished rows from all that follows."""

    def start(self, prompts: Sequence[tuple[int, ...]], prompt_of_row: Tensor, max_tokens: int) -> Tensor:
        """Logits before the first token, [N, V]; row n continues ``prompts[prompt_of_row[n]]``."""
        ...

    def advance(self, token_N: Tensor) -> Tensor:
        """Append a token to every row; logits before the next one, [N, V]."""
        ...

    def keep(self, rows: Tensor) -> None: ...


class SharedPromptDecoder:
    """Every distinct prompt is computed once, without padding; its keys and values are then given to its samples."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def start(self, prompts: Sequence[tuple[int, ...]], prompt_of_row: Tensor, max_tokens: int) -> Tensor:
        device = self._policy.device
        stems = [Rollout("", 0, p, (0,), (True,), None, 0, "stop", "") for p in prompts]
        layout = lay_out(stems, device, share_prompts=False)
        self._cache = Cache()
        logits_PV = self._policy.model(**layout.call(), cache=self._cache).logits[0]
        self._cache.spread(layout, prompt_of_row, max_tokens)
        self._position_N = torch.tensor([len(p) for p in prompts], device=device)[prompt_of_row]
        return logits_PV[prompt_of_row]  # type: ignore[no-any-return]

    def advance(self, token_N: Tensor) -> Tensor:
        self._cache.open_column()
        logits = self._policy.model(
            input_ids=token_N[:, None], position_ids=self._position_N[:, None], use_cache=False, cache=self._cache
        ).logits[:, 0]
        self._position_N = self._position_N + 1
        return logits  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._cache.keep(rows)
        self._position_N = self._position_N[rows]


class PlainDecoder:
    """The ordinary way, for any architecture: rows padded on the left, transformers' own cache."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def start(self, prompts: Sequence[tuple[int, ...]], prompt_of_row: Tensor, max_tokens: int) -> Tensor:
        device = self._policy.device
        rows = [prompts[int(p)] for p in prompt_of_row]
        width = max(map(len, rows))
        pad = self._policy.end_ids[0]
        ids = torch.tensor([(pad,) * (width - len(r)) + r for r in rows], device=device)
        self._seen = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
        self._cache: Any = DynamicCache(config=self._policy.model.config)
        position = (self._seen.cumsum(1) - 1).clamp(min=0)
        self._position_N = position[:, -1] + 1
        return self._forward(ids, position)

    def advance(self, token_N: Tensor) -> Tensor:
        self._seen = torch.cat([self._seen, torch.ones_like(self._seen[:, :1])], dim=1)
        logits = self._forward(token_N[:, None], self._position_N[:, None])
        self._position_N = self._position_N + 1
        return logits

    def _forward(self, ids: Tensor, position: Tensor) -> Tensor:
        out = self._policy.model(
            input_ids=ids,
            attention_mask=self._seen,
            position_ids=position,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._seen = self._seen[rows]
        self._position_N = self._position_N[rows]
