"""A decoder over a table of keys and values, all but the layers: those are the trunk's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from upslope.model.layout import lay_out_prompts
from upslope.native.heads import Heads
from upslope.native.ops import Ops

MOST_CARRIED = 1 / 2
"""Share of rows that ended which a GPU carries along: their work is little there, and a new shape is expensive."""
PREFILL_TOKENS = 2048
"""Prompt tokens in one pass."""
ALIKE_FROM = 4
"""Rows from which a product in float32 gives a row the same bits whatever its company; MKL has kernels of their own,
which add up otherwise, for one to three."""

Mix = Callable[[int, Tensor], Tensor]
"""(layer, its queries, keys and values [X, (H + 2J) D], not yet rotated) to the attention's output [X, H D]."""


class Layers(Protocol):
    """What the decoder asks of a trunk; X tokens, of prompts or the newest of N rows."""

    def angles(self, position_K: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, [K, D / 2] each in float32, that queries and keys at these positions are turned by."""
        ...

    def through(self, id_X: Tensor, position_X: Tensor, mix: Mix) -> Tensor:
        """What the head is applied to, [X, C]; every layer's attention is ``mix``'s."""
        ...

    def prefill(self, id_X: Tensor, position_X: Tensor, mix: Mix) -> object:
        """The same for prompts, as far as the last call of ``mix`` at least; what it returns is not looked at."""
        ...


class TableDecoder:
    """A table of rows as ``Decoder`` describes it. On a CPU ``keep`` costs nothing, so rows that ended are not carried
    along: a row that advances more than ``max_tokens`` times is an error there."""

    refills = True

    def __init__(
        self,
        layers: Layers,
        head: Callable[[Tensor], Tensor],
        ops: Ops,
        heads: Heads,
        num_layers: int,
        num_rows: int,
        max_tokens: int,
        like: Tensor,
        *,
        laid_out: Callable[[], tuple[Layers, Callable[[Tensor], Tensor]]] | None = None,
    ) -> None:
        """``like`` says the dtype and device of keys and values. ``laid_out``: layers and head again, made of the
        weights as they are by then; None: those that are given read them at every call."""
        self._layers, self._head, self._ops, self._heads = layers, head, ops, heads
        self._laid_out = laid_out
        self._device = like.device
        self.slack = 0.0 if like.device.type == "cpu" else MOST_CARRIED
        self._table = ops.table(heads, num_layers, num_rows, max_tokens, like)
        self._begun = [0] * num_rows
        """How often all had advanced when each row was placed: known without a look at the device."""
        self._num_advances = self._oldest = 0
        self._prompt_of_row: list[Any] = [None] * num_rows
        self._known: dict[tuple[int, ...], Any] = {}
        self._begin_N = torch.zeros_like(self._table.written_N)
        self._angles = layers.angles(torch.arange(1, device=self._device))
        self._assigned = False
        repeats = torch.are_deterministic_algorithms_enabled()
        self._fewest = ALIKE_FROM if like.device.type == "cpu" and like.dtype == torch.float32 and repeats else 1
        """Rows in a product at least. Attempts end at different times, and who is left alone is a matter of how they
        are shared out among samplers."""

    @torch.no_grad()
    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        in_use = {id(p) for p in self._prompt_of_row if p is not None}
        self._known = {ids: p for ids, p in self._known.items() if id(p) in in_use}
        self._compute([ids for ids in dict.fromkeys(prompts) if ids not in self._known])
        for row, ids in zip(rows, prompts, strict=True):
            self._prompt_of_row[row] = self._known[ids]
            self._begin_N[row] = len(ids) - 1
            self._table.written_N[row] = 0
            self._begun[row] = self._num_advances
        self._oldest = min(self._begun)
        self._assigned = False
        longest = int(self._begin_N.max()) + self._table.room
        if len(self._angles[0]) < longest:
            self._angles = self._layers.angles(torch.arange(longest, device=self._device))

    @torch.no_grad()
    def advance(self, token_N: Tensor) -> Tensor:
        table = self._table
        if not self._assigned:
            self._assign()
        if not self.slack and self._num_advances - self._oldest >= table.room:
            raise RuntimeError(f"a row that has room for {table.room} tokens was to be given another")
        position_N = self._begin_N + table.written_N
        cosine_NF, sine_NF = (angle.index_select(0, position_N) for angle in self._angles)

        num = len(token_N)

        def mix(layer: int, qkv_NX: Tensor) -> Tensor:
            return self._filled(table.attend(layer, qkv_NX[:num], cosine_NF, sine_NF))

        hidden_NC = self._layers.through(self._filled(token_N), self._filled(position_N), mix)
        table.written_N += 1
        if self.slack:  # a row that is carried along stays in its last place
            table.written_N.clamp_(max=table.room - 1)
        self._num_advances += 1
        return self._head(hidden_NC)[:num]

    def _filled(self, rows_NX: Tensor) -> Tensor:
        """With rows of zeros behind it, where it has too few."""
        missing = self._fewest - len(rows_NX)
        return rows_NX if missing <= 0 else torch.cat([rows_NX, rows_NX.new_zeros(missing, *rows_NX.shape[1:])])

    def keep(self, rows: Tensor) -> None:
        self._table.keep(rows)
        self._begin_N = self._begin_N[rows]
        kept: list[int] = rows.tolist()
        self._prompt_of_row, self._begun = [self._prompt_of_row[r] for r in kept], [self._begun[r] for r in kept]
        self._oldest = min(self._begun, default=self._num_advances)
        self._assigned = False

    def widen(self, num: int) -> None:
        self._table.widen(num)
        self._begin_N = torch.cat([self._begin_N, self._begin_N.new_zeros(num)])
        self._prompt_of_row += [None] * num
        self._begun += [self._num_advances] * num
        self._assigned = False

    def renew(self) -> None:
        if self._laid_out is not None:
            self._layers, self._head = self._laid_out()
        self._known = {}  # rows keep the prompts they have

    def _assign(self) -> None:
        if any(prompt is None for prompt in self._prompt_of_row):
            raise RuntimeError("every row of the table must be placed before any of them advances")
        self._table.assign(self._prompt_of_row)
        self._assigned = True

    def _compute(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Keys and values of these prompts without their last tokens, a few thousand tokens at a time."""
        batch: list[tuple[int, ...]] = []
        for ids in prompts:
            if batch and sum(map(len, batch)) + len(ids) > PREFILL_TOKENS:
                self._pass(batch)
                batch = []
            batch.append(ids)
        if batch:
            self._pass(batch)

    def _pass(self, prompts: Sequence[tuple[int, ...]]) -> None:
        ops, heads = self._ops, self._heads
        made = [self._table.prompt(len(ids) - 1) for ids in prompts]
        self._known.update(zip(prompts, made, strict=True))
        longer = [(ids[:-1], prompt) for ids, prompt in zip(prompts, made, strict=True) if len(ids) > 1]
        if not longer:
            return
        layout = lay_out_prompts([ids for ids, _ in longer], self._device)
        cosine_KF, sine_KF = self._layers.angles(layout.position_K)
        num = len(layout.id_K)

        def mix(layer: int, qkv_KX: Tensor) -> Tensor:
            qkv_KX = qkv_KX[:num]
            ops.rotary_(qkv_KX, cosine_KF, sine_KF, heads.num + heads.num_keys)
            for (start, length), (_, prompt) in zip(layout.stems, longer, strict=True):
                keys_values = qkv_KX[start : start + length, heads.num * heads.depth :]
                key_MJD, value_MJD = keys_values.view(length, 2, heads.num_keys, heads.depth).unbind(1)
                self._table.store(prompt, layer, key_MJD, value_MJD)
            return self._filled(ops.attend(qkv_KX, layout.spans, heads.num, heads.num_keys, heads.scale)[0])

        self._layers.prefill(self._filled(layout.id_K), self._filled(layout.position_K), mix)
