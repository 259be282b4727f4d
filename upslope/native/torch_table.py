"""The table of keys and values of ``torch_ops``: plain rectangles, a prompt's rows computed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.native.heads import Heads
from upslope.native.torch_pointwise import rotary_, wide


@dataclass
class RectanglePrompt:
    """A prompt's keys and values, [layers, M, J, D] each."""

    keys: Tensor
    values: Tensor


class RectangleTable:
    """A ``KeyValueTable``. A row's own keys and values lie in [layers, N, T, J, D] each, T = ``room``."""

    def __init__(self, heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> None:
        self._heads, self._like, self.room, self._most = heads, like.new_empty(0), room, num_rows
        self._keys, self._values = (like.new_zeros(num_layers, num_rows, room, *self._depths) for _ in range(2))
        self.written_N = torch.zeros(num_rows, dtype=torch.long, device=like.device)
        self._groups: list[tuple[RectanglePrompt, Tensor]] = []

    @property
    def _depths(self) -> tuple[int, int]:
        return self._heads.num_keys, self._heads.depth

    def prompt(self, length: int) -> RectanglePrompt:
        keys, values = (self._like.new_empty(len(self._keys), length, *self._depths) for _ in range(2))
        return RectanglePrompt(keys, values)

    def store(self, prompt: RectanglePrompt, layer: int, key_MJD: Tensor, value_MJD: Tensor) -> None:
        prompt.keys[layer], prompt.values[layer] = key_MJD, value_MJD

    def assign(self, prompts: Sequence[RectanglePrompt]) -> None:
        rows_of: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(id(prompt), []).append(row)
        device = self._like.device
        self._groups = [(prompts[rows[0]], torch.tensor(rows, device=device)) for rows in rows_of.values()]

    def keep(self, rows: Tensor) -> None:
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]
        self.written_N = self.written_N[rows]

    def widen(self, num: int) -> None:
        if len(self.written_N) + num > self._most:
            raise RuntimeError(f"a table of {self._most} rows has no room for {num} beside {len(self.written_N)}")
        more = (len(self._keys), num, self.room, *self._depths)
        self._keys, self._values = (torch.cat([x, x.new_zeros(more)], dim=1) for x in (self._keys, self._values))
        self.written_N = torch.cat([self.written_N, self.written_N.new_zeros(num)])

    def attend(self, layer: int, qkv_NX: Tensor, cosine_NF: Tensor, sine_NF: Tensor) -> Tensor:
        num, (num_keys, depth) = len(qkv_NX), self._depths
        if qkv_NX.shape != (num, self._heads.columns) or sum(len(rows) for _, rows in self._groups) != num:
            raise ValueError(f"{tuple(qkv_NX.shape)} are not the queries, keys and values of this table's rows")
        rotary_(qkv_NX, cosine_NF, sine_NF, self._heads.num + num_keys)
        sizes = [self._heads.num * depth, num_keys * depth, num_keys * depth]
        query, key, value = (x.reshape(num, num_keys, -1, depth) for x in torch.split_with_sizes(qkv_NX, sizes, dim=1))
        every = torch.arange(num, device=qkv_NX.device)
        self._keys[layer, every, self.written_N] = key[:, :, 0]
        self._values[layer, every, self.written_N] = value[:, :, 0]
        longest = int(self.written_N.max()) + 1 if num else 0
        hidden_NT = torch.arange(longest, device=qkv_NX.device) > self.written_N[:, None]
        query_NJRD, out_NJRD = wide(query) * self._heads.scale, wide(query).new_empty(query.shape)
        for prompt, rows in self._groups:
            own_keys, own_values = (wide(x[layer, rows, :longest]) for x in (self._keys, self._values))
            keys, values = wide(prompt.keys[layer]), wide(prompt.values[layer])
            before = torch.einsum("njrd,mjd->njrm", query_NJRD[rows], keys)
            own = torch.einsum("njrd,ntjd->njrt", query_NJRD[rows], own_keys)
            own = own.masked_fill(hidden_NT[rows][:, None, None], -torch.inf)
            before, own = torch.cat([before, own], dim=-1).softmax(-1).tensor_split([len(keys)], dim=-1)
            mixed = torch.einsum("njrm,mjd->njrd", before, values) + torch.einsum("njrt,ntjd->njrd", own, own_values)
            out_NJRD[rows] = mixed
        return out_NJRD.flatten(1).to(qkv_NX.dtype)


def table(heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> RectangleTable:
    return RectangleTable(heads, num_layers, num_rows, room, like)
