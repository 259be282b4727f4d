"""Next-token logits for many rows, a token at a time: ours over a shared prompt, and the ordinary way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from upslope.model.attention import planned
from upslope.model.cache import Cache
from upslope.model.fast import Decoder
from upslope.model.hf import cache_keyword
from upslope.model.layout import lay_out_prompts
from upslope.model.policy import Policy


class SharedPromptDecoder:
    """Every distinct prompt is computed once, without padding; its keys and values are then given to its samples, also
    to those that begin while others of them are still in the table."""

    refills = True
    slack = 1 / 8
    """``keep`` copies the cache, which pays once more than an eighth of the work is waste."""

    def __init__(self, policy: Policy, num_rows: int, max_tokens: int, columns: int = 1) -> None:
        """Rows see a multiple of ``columns`` at once: with many, the same shape comes again for as many tokens."""
        self._policy, self._max_tokens, self._columns = policy, max_tokens, columns
        self._begin = [0] * num_rows
        """Where each row's next token would go, less ``_num_advances``: known without a look at the device."""
        self._num_advances = 0
        self._cache = Cache(num_rows)
        self._prompts: list[tuple[int, ...]] = [()] * num_rows
        self._column_N = torch.zeros(num_rows, dtype=torch.long, device=policy.device)

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        device = self._policy.device
        self._cache.reserve(max(map(len, prompts)) - 1 + self._max_tokens)
        holders = {prompt: row for row, prompt in enumerate(self._prompts)}
        shared = [(holders[p], row, len(p)) for row, p in zip(rows, prompts, strict=True) if p in holders]
        fresh = [(row, p) for row, p in zip(rows, prompts, strict=True) if p not in holders and len(p) > 1]
        if shared:  # first, while the holders' rows are what they were
            from_R, to_R, length_R = torch.tensor(shared, device=device).T
            self._cache.copy(from_R, to_R, int(length_R.max()) - 1)
        if fresh:
            self._compute(fresh)
        for row, prompt in zip(rows, prompts, strict=True):
            self._prompts[row] = prompt
            self._begin[row] = len(prompt) - 1 - self._num_advances
        self._column_N[torch.tensor(rows, device=device)] = torch.tensor([len(p) - 1 for p in prompts], device=device)

    def _compute(self, fresh: Sequence[tuple[int, tuple[int, ...]]]) -> None:
        """One pass over the distinct prompts without their last tokens; nothing is predicted from it."""
        device = self._policy.device
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(p for _, p in fresh))}
        layout = lay_out_prompts([p[:-1] for p in number], device)
        with planned(layout, self._cache):
            self._policy.model(**layout.call())
        row_R, stem_R = torch.tensor([(row, number[p]) for row, p in fresh], device=device).T
        self._cache.fill(layout, stem_R, row_R)

    def advance(self, token_N: Tensor) -> Tensor:
        seen = max(self._begin) + self._num_advances + 1
        seen = -(-seen // self._columns) * self._columns
        self._cache.open_columns(self._column_N, min(seen, self._cache.num_columns))
        self._num_advances += 1
        with planned(cache=self._cache):
            logits = self._policy.model(
                input_ids=token_N[:, None], position_ids=self._column_N[:, None], use_cache=False
            ).logits[:, 0]
        # A row that ended and is carried along stays in its last column.
        self._column_N = (self._column_N + 1).clamp(max=self._cache.num_columns - 1)
        return logits  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._cache.keep(rows)
        kept: list[int] = rows.tolist()
        self._prompts, self._begin = [self._prompts[r] for r in kept], [self._begin[r] for r in kept]
        self._column_N = self._column_N[rows]

    def widen(self, num: int) -> None:
        self._cache.widen(num)
        self._prompts += [()] * num
        self._begin += [-self._num_advances] * num
        self._column_N = torch.cat([self._column_N, self._column_N.new_zeros(num)])

    def renew(self) -> None:
        self._prompts = [()] * len(self._prompts)  # nobody takes over a prompt of the older weights


class PlainDecoder:
    """The ordinary way, for any architecture: rows padded on the left, transformers' own cache. All rows begin at once
    and every prompt is computed for each of them."""

    refills = False
    slack = 1 / 8

    def __init__(self, policy: Policy, num_rows: int, max_tokens: int) -> None:
        self._policy = policy
        self._cache: Any = DynamicCache(config=policy.model.config)
        self._keyword = cache_keyword(policy.model)
        self._num_rows = num_rows

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        if sorted(rows) != list(range(self._num_rows)) or self._cache.get_seq_length():
            raise RuntimeError("all rows of this decoder begin at once")
        device = self._policy.device
        stems = [prompt[:-1] for _, prompt in sorted(zip(rows, prompts, strict=True))]
        width = max(map(len, stems))
        pad = self._policy.end_ids[0]
        ids = torch.tensor([(pad,) * (width - len(s)) + s for s in stems], dtype=torch.long, device=device)
        self._seen = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in stems], device=device).long()
        self._position_N = torch.tensor([len(s) for s in stems], device=device)
        if width:
            self._forward(ids, (self._seen.cumsum(1) - 1).clamp(min=0))

    def advance(self, token_N: Tensor) -> Tensor:
        self._seen = torch.cat([self._seen, self._seen.new_ones(len(token_N), 1)], dim=1)
        logits = self._forward(token_N[:, None], self._position_N[:, None])
        self._position_N = self._position_N + 1
        return logits

    def _forward(self, ids: Tensor, position: Tensor) -> Tensor:
        out = self._policy.model(
            input_ids=ids,
            attention_mask=self._seen,
            position_ids=position,
            use_cache=True,
            logits_to_keep=1,
            **{self._keyword: self._cache},
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._seen = self._seen[rows]
        self._position_N = self._position_N[rows]

    def widen(self, num: int) -> None:
        raise RuntimeError("all rows of this decoder begin at once")

    def renew(self) -> None:
        pass  # the model reads its weights at every call, and no row begins later


def decoder_for(policy: Policy, num_rows: int, max_tokens: int, *, packed: bool = True, columns: int = 1) -> Decoder:
    """The fastest decoder that this policy can have; ``packed=False``: the ordinary one. ``columns``: see
    ``SharedPromptDecoder``."""
    trunk = policy.fast_trunk if packed else None
    if trunk is not None:
        return trunk.decoder(policy.model.get_output_embeddings(), num_rows, max_tokens)
    if packed and policy.packs:
        return SharedPromptDecoder(policy, num_rows, max_tokens, columns)
    return PlainDecoder(policy, num_rows, max_tokens)
