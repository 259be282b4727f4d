"""Keys and values of everything a row has seen: filled from one pass over the prompts, then a column a token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from upslope.model.layout import Layout


class Cache:
    """A buffer [N, Hkv, S, D] a layer; column s of a row holds the token at its position s, wherever other rows are.

    Life: a row begins with ``fill``, from the packed pass that ``remember`` listened to, or with ``copy``, from a row
    that has the same prompt; then for each token ``open_columns`` and, in every layer, ``extend``; ``keep`` drops rows,
    ``widen`` adds some.
    Columns behind a row's newest are never seen, so a row that begins anew need not clear what was there.
    """

    def __init__(self, num_rows: int) -> None:
        self.num_columns = 0
        self._num_rows = num_rows
        self._packed: dict[int, tuple[Tensor, Tensor]] = {}
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._column_N = torch.empty(0, dtype=torch.long)
        self._visible_NS = torch.empty(0, 0, dtype=torch.bool)

    def reserve(self, num_columns: int) -> None:
        """Make room for at least that many columns; what is written stays."""
        more = num_columns - self.num_columns
        if more > 0:
            self.num_columns = num_columns
            self._replace(lambda buffer: pad(buffer, (0, 0, 0, more)))

    def remember(self, layer: int, key_HKD: Tensor, value_HKD: Tensor) -> None:
        """Hold a layer's packed keys and values until ``fill``."""
        self._packed[layer] = (key_HKD, value_HKD)

    def fill(self, layout: Layout, stem_R: Tensor, row_R: Tensor) -> None:
        """Row ``row_R[r]`` begins with stem ``stem_R[r]`` of the pass over ``layout``."""
        (stems,) = layout.segments
        index_BM = stems.query_BL  # padding comes last, in columns that are written before they are seen
        for layer, pair in self._packed.items():
            for packed_HKD, buffer in zip(pair, self._layer(layer, *pair), strict=True):
                stem_BHMD = packed_HKD[:, index_BM].transpose(0, 1)
                buffer[:, :, : index_BM.shape[1]].index_copy_(0, row_R, stem_BHMD.index_select(0, stem_R))
        self._packed.clear()

    def copy(self, from_R: Tensor, to_R: Tensor, num_columns: int) -> None:
        """Row ``to_R[r]`` begins with the first columns of row ``from_R[r]``; all are read before any is written."""
        for pair in self._buffers.values():
            for buffer in pair:
                buffer[to_R, :, :num_columns] = buffer[from_R, :, :num_columns]

    def held(self) -> list[Tensor]:
        """What stays where it is until room is reserved, or rows are dropped or added."""
        return [buffer for pair in self._buffers.values() for buffer in pair]

    def open_columns(self, column_N: Tensor, num_columns: int) -> None:
        """The next token of row n goes to ``column_N[n]`` and sees what is up to there, within the first
        ``num_columns``. Their number is the caller's to know: to read it here would be to wait for the device."""
        self._column_N = column_N
        self._visible_NS = torch.arange(num_columns, device=column_N.device) <= column_N[:, None]

    def extend(self, layer: int, key_NHD: Tensor, value_NHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write one token a row; returns keys and values [N, Hkv, S, D] so far and which columns are seen, [N, S]."""
        row_N = torch.arange(self._num_rows, device=key_NHD.device)
        keys, values = self._layer(layer, key_NHD.transpose(0, 1), value_NHD.transpose(0, 1))
        keys[row_N, :, self._column_N] = key_NHD
        values[row_N, :, self._column_N] = value_NHD
        upto = self._visible_NS.shape[1]
        return keys[:, :, :upto], values[:, :, :upto], self._visible_NS

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        self._num_rows = len(rows)
        self._replace(lambda buffer: buffer.index_select(0, rows))

    def widen(self, num: int) -> None:
        """So many rows more, behind the others; they begin with ``fill`` or ``copy``."""
        self._num_rows += num
        self._replace(lambda buffer: torch.cat([buffer, buffer.new_zeros(num, *buffer.shape[1:])]))

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """One layer after the other, so that old and new buffers of one layer only are there at once."""
        for layer in self._buffers:
            keys, values = self._buffers[layer]
            self._buffers[layer] = change(keys), change(values)

    def _layer(self, layer: int, key_HKD: Tensor, value_HKD: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's buffers, made when its first keys and values are seen."""
        if layer not in self._buffers:
            keys, values = (
                like.new_zeros(self._num_rows, len(like), self.num_columns, like.shape[2])
                for like in (key_HKD, value_HKD)
            )
            self._buffers[layer] = keys, values
        return self._buffers[layer]
