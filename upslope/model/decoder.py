"""Next-token logits for many rows, a token at a time: ours over a shared prompt, and the ordinary ways, with what the
model itself keeps of earlier tokens, or with nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from upslope.model.attention import own_attention, planned
from upslope.model.cache import Cache
from upslope.model.hf import accepted, cache_keyword, cache_of, keep_rows
from upslope.model.layout import lay_out_prompts
from upslope.model.lengths import turn_of
from upslope.model.plain import whole_pass


class SharedPromptDecoder:
    """Every distinct prompt is computed once, without padding; its keys and values are then given to its samples, also
    to those that begin while others of them are still in the table."""

    refills = True
    slack = 1 / 8
    """``keep`` copies the cache, which pays once more than an eighth of the work is waste."""

    def __init__(self, model: Any, num_rows: int, max_tokens: int, columns: int = 1) -> None:
        """Rows see a multiple of ``columns`` at once: with many, the same shape comes again for as many tokens."""
        self._model, self._max_tokens, self._columns = model, max_tokens, columns
        self._device = next(model.parameters()).device
        self._begin = [0] * num_rows
        """Where each row's next token would go, less ``_num_advances``: known without a look at the device."""
        self._num_advances = 0
        self._cache = Cache(num_rows)
        self._prompts: list[tuple[int, ...]] = [()] * num_rows
        self._column_N = torch.zeros(num_rows, dtype=torch.long, device=self._device)

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        device = self._device
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
        device = self._device
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(p for _, p in fresh))}
        layout = lay_out_prompts([p[:-1] for p in number], device)
        with planned(layout, self._cache):
            self._model(**layout.call())
        row_R, stem_R = torch.tensor([(row, number[p]) for row, p in fresh], device=device).T
        self._cache.fill(layout, stem_R, row_R)

    def advance(self, token_N: Tensor) -> Tensor:
        return self.compute(token_N, self.open())

    def open(self) -> int:
        """How many columns rows see at their next token; that is all the host has to know of it."""
        seen = max(self._begin) + self._num_advances + 1
        self._num_advances += 1
        return min(-(-seen // self._columns) * self._columns, self._cache.num_columns)

    def compute(self, token_N: Tensor, columns: int) -> Tensor:
        """``advance`` by so many ``open`` columns. Nothing that the host keeps is read, or changed."""
        self._cache.open_columns(self._column_N, columns)
        with planned(cache=self._cache):
            logits = self._model(
                input_ids=token_N[:, None], position_ids=self._column_N[:, None], use_cache=False
            ).logits[:, 0]
        # A row that ended and is carried along stays in its last column.
        self._column_N.add_(1).clamp_(max=self._cache.num_columns - 1)
        return logits  # type: ignore[no-any-return]

    def held(self) -> list[Tensor]:
        """Everything ``compute`` reads that changes from token to token, where it is now."""
        return [self._column_N, *self._cache.held()]

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
    """The ordinary way, for any architecture: rows padded on the left, and what the model itself keeps of earlier
    tokens. All rows begin at once and every prompt is computed for each of them."""

    refills = False
    slack = 1 / 8

    def __init__(self, model: Any, num_rows: int, max_tokens: int) -> None:
        self._model = model
        self._cache: Any = None
        self._keyword = cache_keyword(model)
        self._num_rows = num_rows

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        if sorted(rows) != list(range(self._num_rows)) or self._cache is not None:
            raise RuntimeError("all rows of this decoder begin at once")
        device = next(self._model.parameters()).device
        stems = [prompt[:-1] for _, prompt in sorted(zip(rows, prompts, strict=True))]
        width = max(map(len, stems))
        ids = torch.tensor([(0,) * (width - len(s)) + s for s in stems], dtype=torch.long, device=device)
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
        call = {"input_ids": ids, "attention_mask": self._seen, "position_ids": position}
        out = _called(self._model, call, self._keyword, self._cache)
        self._cache = cache_of(out)
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        if self._cache is not None:
            keep_rows(self._cache, rows)
        self._seen = self._seen[rows]
        self._position_N = self._position_N[rows]

    def widen(self, num: int) -> None:
        raise RuntimeError("all rows of this decoder begin at once")

    def renew(self) -> None:
        pass  # the model reads its weights at every call, and no row begins later


class AloneDecoder:
    """A row at a time, without padding or masks, each with what the model keeps of it: for what cannot be put side by
    side. A row that goes beyond one of ``lengths.turns`` is computed anew, as its rotary angles are others."""

    refills = True
    slack = 0.0

    def __init__(
        self, model: Any, num_rows: int, max_tokens: int, turns: Sequence[int] = (), *, places: bool = True
    ) -> None:
        """``places``: tell the model at which position its tokens are; some count by themselves, and otherwise
        (RoBERTa)."""
        self._model, self._turns, self._places = model, turns, places
        self._keyword = cache_keyword(model)
        self._ids: list[tuple[int, ...]] = [()] * num_rows
        self._caches: list[Any] = [None] * num_rows

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._ids[row], self._caches[row] = prompt[:-1], None
            if len(prompt) > 1:
                self._read(row, prompt[:-1])

    def advance(self, token_N: Tensor) -> Tensor:
        return torch.stack([self._appended(row, token) for row, token in enumerate(token_N.tolist())])

    def _appended(self, row: int, token: int) -> Tensor:
        ids = self._ids[row] = (*self._ids[row], token)
        if turn_of(len(ids), self._turns) != turn_of(len(ids) - 1, self._turns):
            self._caches[row] = None
            return self._read(row, ids)
        return self._read(row, (token,))

    def _read(self, row: int, new: Sequence[int]) -> Tensor:
        """Logits [V] after these tokens of a row."""
        device, before = next(self._model.parameters()).device, len(self._ids[row]) - len(new)
        call = {"input_ids": torch.tensor([new], device=device)}
        if self._places:
            call["position_ids"] = torch.arange(before, before + len(new), device=device)[None]
        with own_attention(self._model):
            out = _called(self._model, call, self._keyword, self._caches[row])
        self._caches[row] = cache_of(out)
        return out.logits[0, -1]  # type: ignore[no-any-return]

    def keep(self, rows: Tensor) -> None:
        self._ids = [self._ids[row] for row in rows.tolist()]
        self._caches = [self._caches[row] for row in rows.tolist()]

    def widen(self, num: int) -> None:
        self._ids += [()] * num
        self._caches += [None] * num

    def renew(self) -> None:
        pass  # rows keep what they have, and prompts are computed when they are placed


class WholeDecoder:
    """For a model that keeps nothing of earlier tokens, or not what it should: a pass over the row for every token."""

    refills = True
    slack = 0.0

    def __init__(self, model: Any, num_rows: int, max_tokens: int) -> None:
        self._model = model
        self._ids: list[tuple[int, ...]] = [()] * num_rows

    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            self._ids[row] = prompt[:-1]

    def advance(self, token_N: Tensor) -> Tensor:
        self._ids = [(*ids, token) for ids, token in zip(self._ids, token_N.tolist(), strict=True)]
        return torch.stack([whole_pass(self._model, ids)[-1] for ids in self._ids])

    def keep(self, rows: Tensor) -> None:
        self._ids = [self._ids[row] for row in rows.tolist()]

    def widen(self, num: int) -> None:
        self._ids += [()] * num

    def renew(self) -> None:
        pass  # nothing is kept


def _called(model: Any, call: dict[str, Any], keyword: str, cache: Any) -> Any:
    """The model's output, the logits of the last token alone where it can leave the others out."""
    more = {"use_cache": True, "logits_to_keep": 1} | ({} if cache is None else {keyword: cache})
    return model(**accepted(model, call | more))
