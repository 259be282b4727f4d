"""Decoding for the Llama family on a CPU: packed weights, keys and values in static memory, and native kernels between
the products. Samples of one problem read one copy of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import embedding

from upslope.model.layout import lay_out_prompts
from upslope.model.llama import Layer, Plan, Trunk, attention_half, mlp_half, norm_heads_
from upslope.model.policy import Policy
from upslope.native import kernels
from upslope.native.kernels import LANES, PANEL, padded, paneled
from upslope.native.onednn import Product, product

LARGEST_CREW = 8
"""Rows of one prompt that a thread takes at once: enough to use what it loads, few enough to share the work."""
PREFILL_TOKENS = 2048
"""Prompt tokens in one pass."""


@dataclass(frozen=True)
class Packed:
    """A layer's products, as decoding needs them."""

    layer: Layer
    qkv: Product
    o: Product
    gate_up: Product
    down: Product

    @staticmethod
    def of(layer: Layer, num_rows: int) -> Packed:
        return Packed(
            layer,
            product(*layer.qkv(), num_rows),
            product(layer.o, layer.o_bias, num_rows),
            product(*layer.gate_up(), num_rows),
            product(layer.down, layer.down_bias, num_rows),
        )


@dataclass
class Prompt:
    """A prompt's keys [layers, J, panels, Dp, 64] and values [layers, J, Mp, Dp]; M leaves out its last token."""

    length: int
    keys: Tensor
    values: Tensor


@dataclass
class Table:
    """What the rows have seen. Row n's own tokens lie in slot ``slot_N[n]``, ``written_N[n]`` of them."""

    own_keys: list[Tensor]
    """For every layer [slots, J, panels, Dp, 64]."""
    own_tails: list[Tensor]
    """For every layer [slots, J, 16, Dp]: the newest keys, until there are sixteen."""
    own_values: list[Tensor]
    """For every layer [slots, J, Tp, Dp]."""
    room: int
    slot_N: Tensor
    written_N: Tensor
    prompts: list[Prompt] = field(default_factory=list)
    order_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Rows so that those of one prompt are neighbours."""
    crew_C3: Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))
    """(first place in ``order_N``, number of rows, which prompt)."""
    prompt_keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Addresses."""
    prompt_values: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    prompt_length: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    largest_crew: int = 1
    longest_prompt: int = 0

    def assign(self, prompt_of_row: Sequence[Prompt], num_heads: int) -> None:
        """Put rows with one prompt together, in crews small enough that every thread has several."""
        self.prompts = list({id(p): p for p in prompt_of_row}.values())
        index = {id(p): i for i, p in enumerate(self.prompts)}
        which = [index[id(p)] for p in prompt_of_row]
        order = sorted(range(len(which)), key=which.__getitem__)
        fair = len(which) * num_heads // (4 * torch.get_num_threads())
        self.largest_crew = max(1, min(LARGEST_CREW, fair))
        crews: list[list[int]] = []
        for place, row in enumerate(order):
            if crews and crews[-1][2] == which[row] and crews[-1][1] < self.largest_crew:
                crews[-1][1] += 1
            else:
                crews.append([place, 1, which[row]])
        self.order_N = torch.tensor(order, dtype=torch.long)
        self.crew_C3 = torch.tensor(crews, dtype=torch.long)
        self.prompt_keys = torch.tensor([p.keys.data_ptr() for p in self.prompts])
        self.prompt_values = torch.tensor([p.values.data_ptr() for p in self.prompts])
        self.prompt_length = torch.tensor([p.length for p in self.prompts])
        self.longest_prompt = max(p.length for p in self.prompts)


class NativeDecoder:
    """A table of rows as ``Decoder`` describes it. ``keep`` costs nothing, so rows that ended are not carried along: a
    row that advances more than ``max_tokens`` times is an error."""

    refills = True
    slack = 0.0

    def __init__(self, policy: Policy, trunk: Trunk, num_rows: int, max_tokens: int) -> None:
        self._trunk, self._shape = trunk, trunk.shape
        head = policy.model.get_output_embeddings()
        plain = type(head) is torch.nn.Linear  # not one with an adapter around it
        self._head: Product = product(head.weight, head.bias, num_rows) if plain else head
        self._layers = [Packed.of(layer, num_rows) for layer in trunk.layers]
        size = num_rows * trunk.shape.num_key_heads * padded(trunk.shape.depth)
        lengths = (paneled(max_tokens), LANES, paneled(max_tokens))
        keys, tails, values = ([trunk.embedding.new_empty(size * n) for _ in trunk.layers] for n in lengths)
        unset = torch.zeros(num_rows, dtype=torch.long)
        self._table = Table(keys, tails, values, max_tokens, torch.arange(num_rows), unset)
        self._prompt_of_row: list[Prompt | None] = [None] * num_rows
        self._known: dict[tuple[int, ...], Prompt] = {}
        self._begin_N = unset.clone()
        self._angles = trunk.angles(torch.arange(1))
        self._assigned = False

    @torch.no_grad()
    def place(self, rows: Sequence[int], prompts: Sequence[tuple[int, ...]]) -> None:
        in_use = {id(p) for p in self._prompt_of_row if p is not None}
        self._known = {ids: p for ids, p in self._known.items() if id(p) in in_use}
        self._compute([ids for ids in dict.fromkeys(prompts) if ids not in self._known])
        for row, ids in zip(rows, prompts, strict=True):
            self._prompt_of_row[row] = self._known[ids]
            self._begin_N[row] = len(ids) - 1
            self._table.written_N[row] = 0
        self._assigned = False
        longest = int(self._begin_N.max()) + self._table.room
        if len(self._angles[0]) < longest:
            self._angles = self._trunk.angles(torch.arange(longest))

    @torch.no_grad()
    def advance(self, token_N: Tensor) -> Tensor:
        table, shape = self._table, self._shape
        if not self._assigned:
            self._assign()
        if int(table.written_N.max()) >= table.room:
            raise RuntimeError(f"a row that has room for {table.room} tokens was to be given another")
        position_N = self._begin_N + table.written_N
        cosine_NF, sine_NF = (angle.index_select(0, position_N) for angle in self._angles)
        heads = (shape.num_heads, shape.num_key_heads, shape.depth)
        stream_NC = embedding(token_N, self._trunk.embedding)
        delta_NC: Tensor | None = None
        for index, packed in enumerate(self._layers):
            layer = packed.layer
            stream_NC, hidden_NC, _ = kernels.norm(stream_NC, delta_NC, layer.norm1, shape.eps)
            qkv_NX = packed.qkv(hidden_NC)
            norm_heads_(qkv_NX, shape, layer)
            out_NX = kernels.decode(qkv_NX, cosine_NF, sine_NF, heads, shape.scale, table, index)
            stream_NC, hidden_NC, _ = kernels.norm(stream_NC, packed.o(out_NX), layer.norm2, shape.eps)
            delta_NC = packed.down(kernels.swiglu(packed.gate_up(hidden_NC)))
        _, hidden_NC, _ = kernels.norm(stream_NC, delta_NC, self._trunk.norm, shape.eps)
        table.written_N += 1
        return self._head(hidden_NC)

    def keep(self, rows: Tensor) -> None:
        table = self._table
        table.slot_N, table.written_N, self._begin_N = table.slot_N[rows], table.written_N[rows], self._begin_N[rows]
        self._prompt_of_row = [self._prompt_of_row[row] for row in rows.tolist()]
        self._assigned = False

    def _assign(self) -> None:
        placed = [p for p in self._prompt_of_row if p is not None]
        if len(placed) != len(self._prompt_of_row):
            raise RuntimeError("every row of the table must be placed before any of them advances")
        self._table.assign(placed, self._shape.num_key_heads)
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
        trunk, shape = self._trunk, self._shape
        size, num = padded(shape.depth), len(trunk.layers)
        made = []
        for ids in prompts:
            width = paneled(len(ids) - 1)
            keys = trunk.embedding.new_empty(num, shape.num_key_heads, width // PANEL, size, PANEL)
            made.append(Prompt(len(ids) - 1, keys, trunk.embedding.new_empty(num, shape.num_key_heads, width, size)))
        self._known.update(zip(prompts, made, strict=True))
        longer = [(ids[:-1], p) for ids, p in zip(prompts, made, strict=True) if p.length]
        if not longer:
            return
        layout = lay_out_prompts([ids for ids, _ in longer], trunk.embedding.device)
        plan = Plan(*trunk.angles(layout.position_K), layout.spans)
        stream_KC, delta_KC = embedding(layout.id_K, trunk.embedding), None
        for index, layer in enumerate(trunk.layers):
            half = attention_half(stream_KC, delta_KC, shape, plan, layer, keep=False)
            for (start, length), (_, prompt) in zip(layout.stems, longer, strict=True):
                keys_values = half.qkv[start : start + length, shape.num_heads * shape.depth :]
                keys_MJD, values_MJD = keys_values.view(length, 2, shape.num_key_heads, shape.depth).unbind(1)
                for at, panel_MJD in enumerate(torch.split(keys_MJD, PANEL)):
                    prompt.keys[index, :, at, : shape.depth, : len(panel_MJD)] = panel_MJD.permute(1, 2, 0)
                prompt.values[index, :, :length, : shape.depth] = values_MJD.transpose(0, 1)
            if index + 1 < num:
                stream_KC, delta_KC, _, _ = mlp_half(half, shape, layer, keep=False)
