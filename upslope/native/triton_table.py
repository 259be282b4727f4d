"""The table of keys and values in Triton: rows stay where they are, and prompts lie behind one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from upslope.native.heads import Heads
from upslope.native.slots import free_slots
from upslope.native.torch_table import RectanglePrompt
from upslope.native.triton_attention import at_least_16, product, wide_products
from upslope.native.triton_pointwise import require, rotary_

KEYS = 32


@triton.jit
def _decode(
    qkv, prompt_keys, prompt_values, first, length, own_keys, own_values, slot, written, out, room, scale, heads,
    key_heads, depth, R: tl.constexpr, D: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, key_head = tl.program_id(0), tl.program_id(1)
    repeats, col, near, one = heads // key_heads, tl.arange(0, D), tl.arange(0, N), tl.arange(0, R)
    begin_at, size = tl.load(first + row), tl.load(length + row)
    own, last = tl.load(slot + row) * room, tl.load(written + row) + 1
    head = key_head * repeats + one
    mine = (one[:, None] < repeats) & (col[None, :] < depth)
    q = tl.load(
        qkv + row.to(tl.int64) * (heads + 2 * key_heads) * depth + head[:, None] * depth + col[None, :],
        mask=mine,
        other=0.0,
    )
    most, total = tl.full((R,), float("-inf"), tl.float32), tl.zeros((R,), tl.float32)
    mixed = tl.zeros((R, D), tl.float32)
    for begin in range(0, size + last, N):
        at = begin + near
        is_prompt, is_own = at < size, (at >= size) & (at < size + last)
        from_prompt = ((begin_at + at).to(tl.int64) * key_heads + key_head)[:, None] * depth + col[None, :]
        from_own = ((own + at - size).to(tl.int64) * key_heads + key_head)[:, None] * depth + col[None, :]
        fits = col[None, :] < depth
        in_prompt, in_own = is_prompt[:, None] & fits, is_own[:, None] & fits
        k = tl.load(prompt_keys + from_prompt, mask=in_prompt, other=0.0)
        k += tl.load(own_keys + from_own, mask=in_own, other=0.0)
        v = tl.load(prompt_values + from_prompt, mask=in_prompt, other=0.0)
        v += tl.load(own_values + from_own, mask=in_own, other=0.0)
        z = scale * product(q, tl.trans(k), WIDE)
        z = tl.where((at < size + last)[None, :], z, float("-inf"))
        top = tl.maximum(most, tl.max(z, axis=1))
        p, keep = tl.exp(z - top[:, None]), tl.exp(most - top)
        total = total * keep + tl.sum(p, axis=1)
        mixed = mixed * keep[:, None] + product(p.to(v.dtype), v, WIDE)
        most = top
    to = out + row.to(tl.int64) * heads * depth + head[:, None] * depth + col[None, :]
    tl.store(to, (mixed / total[:, None]).to(q.dtype), mask=mine)


class BlockTable:
    """A ``KeyValueTable``. A row's own keys and values lie in [layers, slots, T, J, D] each; nothing in ``attend``
    looks at the device, and all shapes are those of the number of rows."""

    def __init__(self, heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> None:
        self._heads, self._like, self.room = heads, like.new_empty(0), room
        shape = (num_layers, num_rows, room, heads.num_keys, heads.depth)
        self._keys, self._values = like.new_empty(shape), like.new_empty(shape)
        self._slot_N = torch.arange(num_rows, device=like.device)
        self.written_N = torch.zeros(num_rows, dtype=torch.long, device=like.device)
        self._prompt_keys, self._prompt_values = (like.new_empty(num_layers, 0, *shape[3:]) for _ in range(2))
        self._first_N = self._length_N = self.written_N

    def prompt(self, length: int) -> RectanglePrompt:
        shape = (len(self._keys), length, self._heads.num_keys, self._heads.depth)
        return RectanglePrompt(self._like.new_empty(shape), self._like.new_empty(shape))

    def store(self, prompt: RectanglePrompt, layer: int, key_MJD: Tensor, value_MJD: Tensor) -> None:
        prompt.keys[layer], prompt.values[layer] = key_MJD, value_MJD

    def assign(self, prompts: Sequence[RectanglePrompt]) -> None:
        """Put the prompts behind one another."""
        distinct = list({id(p): p for p in prompts}.values())
        begins, end = {}, 0
        for prompt in distinct:
            begins[id(prompt)], end = end, end + prompt.keys.shape[1]
        device = self._like.device
        self._first_N = torch.tensor([begins[id(p)] for p in prompts], dtype=torch.long, device=device)
        self._length_N = torch.tensor([p.keys.shape[1] for p in prompts], dtype=torch.long, device=device)
        if distinct:
            self._prompt_keys = torch.cat([p.keys for p in distinct], dim=1)
            self._prompt_values = torch.cat([p.values for p in distinct], dim=1)

    def keep(self, rows: Tensor) -> None:
        self._slot_N, self.written_N = self._slot_N[rows], self.written_N[rows]

    def widen(self, num: int) -> None:
        self._slot_N = torch.cat([self._slot_N, free_slots(self._slot_N, self._keys.shape[1], num)])
        self.written_N = torch.cat([self.written_N, self.written_N.new_zeros(num)])

    def attend(self, layer: int, qkv_NX: Tensor, cosine_NF: Tensor, sine_NF: Tensor) -> Tensor:
        heads, num = self._heads, len(qkv_NX)
        require((qkv_NX, (num, heads.columns)), dtype=self._like.dtype)
        require((self._first_N, (num,)), (self._slot_N, (num,)), (self.written_N, (num,)), dtype=torch.long)
        rotary_(qkv_NX, cosine_NF, sine_NF, heads.num + heads.num_keys)
        new = qkv_NX[:, heads.num * heads.depth :].view(num, 2, heads.num_keys, heads.depth)
        own_keys, own_values = self._keys[layer], self._values[layer]
        own_keys[self._slot_N, self.written_N], own_values[self._slot_N, self.written_N] = new[:, 0], new[:, 1]
        out_NX = qkv_NX.new_empty(num, heads.num * heads.depth)
        if num:
            rows = (self._first_N, self._length_N, own_keys, own_values, self._slot_N, self.written_N)
            sizes = {
                "R": at_least_16(heads.num // heads.num_keys),
                "D": at_least_16(heads.depth),
                "N": KEYS,
                "WIDE": wide_products(qkv_NX.dtype),
            }
            shape = (self.room, heads.scale, heads.num, heads.num_keys, heads.depth)
            prompts = (self._prompt_keys[layer], self._prompt_values[layer])
            _decode[(num, heads.num_keys)](qkv_NX, *prompts, *rows, out_NX, *shape, **sizes)
        return out_NX


def table(heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> BlockTable:
    return BlockTable(heads, num_layers, num_rows, room, like)
