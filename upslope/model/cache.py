"""Keys and values of everything a row has seen: filled from one pass over the prompts, then a column a token."""

from __future__ import annotations

import torch
from torch import Tensor

from upslope.model.layout import Layout


class Cache:
    """A static buffer [N, Hkv, S, D] a layer. Prompts end at the same column, so every row writes the same one.

    Life: ``remember`` during the packed pass over the distinct prompts; ``spread`` copies each prompt to the rows of
    its samples; then for each token ``open_column`` and, in every layer, ``extend``; ``keep`` drops finished rows.
    """

    def __init__(self) -> None:
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._visible_NS = torch.empty(0, 0, dtype=torch.bool)
        self._column = 0

    def remember(self, layer: int, key_HKD: Tensor, value_HKD: Tensor) -> None:
        """Hold a layer's packed keys and values until ``spread``."""
        self._packed[layer] = (key_HKD, value_HKD)

    def spread(self, layout: Layout, prompt_of_row: Tensor, max_tokens: int) -> None:
        """Lay every row's prompt into its buffer, right-aligned, with room for ``max_tokens`` more columns."""
        (stems,) = layout.segments
        starts_P = stems.query_BL[:, 0]
        length_P = torch.diff(starts_P, append=starts_P.new_tensor([layout.num_tokens]))
        width = int(length_P.max())
        offset_PM = torch.arange(width, device=starts_P.device) - (width - length_P)[:, None]
        index_NM = torch.where(offset_PM >= 0, starts_P[:, None] + offset_PM, 0)[prompt_of_row]
        for layer, pair in self._packed.items():
            for packed_HKD, store in zip(pair, (self._keys, self._values), strict=True):
                num_heads, _, depth = packed_HKD.shape
                buffer = packed_HKD.new_zeros(len(prompt_of_row), num_heads, width + max_tokens, depth)
                buffer[:, :, :width] = packed_HKD[:, index_NM].transpose(0, 1)
                store[layer] = buffer
        self._packed.clear()
        generated = torch.ones(len(prompt_of_row), max_tokens, dtype=torch.bool, device=starts_P.device)
        self._visible_NS = torch.cat([(offset_PM >= 0)[prompt_of_row], generated], dim=1)
        self._column = width - 1

    def open_column(self) -> None:
        """Make room for the next token of every row."""
        self._column += 1

    def extend(self, layer: int, key_NHD: Tensor, value_NHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write one token a row; returns keys and values [N, Hkv, S, D] so far and which columns are real, [N, S]."""
        upto = self._column + 1
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self._column] = key_NHD
        values[:, :, self._column] = value_NHD
        return keys[:, :, :upto], values[:, :, :upto], self._visible_NS[:, :upto]

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        for store in (self._keys, self._values):
            for layer, buffer in store.items():
                store[layer] = buffer[rows]
        self._visible_NS = self._visible_NS[rows]
