"""The kernels' own table of keys and values: keys transposed in panels, as decode.h reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from upslope.native.calls import kernel, pointers, require
from upslope.native.heads import Heads
from upslope.native.slots import free_slots

LANES = 16
"""Floats that lengths are padded to, as in vector.h."""
PANEL = 64
"""Transposed keys that lie together, as in vector.h."""
LARGEST_CREW = 8
"""Rows of one prompt that a thread takes at once: enough to use what it loads, few enough to share the work."""


def padded(num: int) -> int:
    """The next multiple of sixteen."""
    return (num + LANES - 1) // LANES * LANES


def paneled(num: int) -> int:
    """The next multiple of a panel's columns."""
    return (num + PANEL - 1) // PANEL * PANEL


@dataclass
class PanelPrompt:
    """A prompt's keys [layers, J, panels, Dp, 64] and values [layers, J, Mp, Dp], of ``length`` = M tokens."""

    length: int
    keys: Tensor
    values: Tensor


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.long)


@dataclass
class PanelTable:
    """A ``KeyValueTable``. Row n's own tokens lie in slot ``slot_N[n]``, ``written_N[n]`` of them."""

    heads: Heads
    own_keys: list[Tensor]
    """For every layer [slots, J, panels, Dp, 64]."""
    own_tails: list[Tensor]
    """For every layer [slots, J, 16, Dp]: the newest keys, until there are sixteen."""
    own_values: list[Tensor]
    """For every layer [slots, J, Tp, Dp]."""
    room: int
    slot_N: Tensor
    written_N: Tensor
    prompts: list[PanelPrompt] = field(default_factory=list)
    order_N: Tensor = field(default_factory=_none)
    """Rows so that those of one prompt are neighbours."""
    crew_C3: Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))
    """(first place in ``order_N``, number of rows, which prompt)."""
    prompt_keys: Tensor = field(default_factory=_none)
    """Addresses."""
    prompt_values: Tensor = field(default_factory=_none)
    prompt_length: Tensor = field(default_factory=_none)
    largest_crew: int = 1
    longest_prompt: int = 0

    def prompt(self, length: int) -> PanelPrompt:
        width, size, like = paneled(length), padded(self.heads.depth), self.own_keys[0]
        shape = (len(self.own_keys), self.heads.num_keys)
        keys = like.new_empty(*shape, width // PANEL, size, PANEL)
        return PanelPrompt(length, keys, like.new_empty(*shape, width, size))

    def store(self, prompt: PanelPrompt, layer: int, key_MJD: Tensor, value_MJD: Tensor) -> None:
        depth = self.heads.depth
        for first in range(0, len(key_MJD), PANEL):
            panel_MJD = key_MJD[first : first + PANEL]
            prompt.keys[layer, :, first // PANEL, :depth, : len(panel_MJD)] = panel_MJD.permute(1, 2, 0)
        prompt.values[layer, :, : len(value_MJD), :depth] = value_MJD.transpose(0, 1)

    def assign(self, prompts: Sequence[PanelPrompt]) -> None:
        """Put rows with one prompt together, in crews small enough that every thread has several."""
        self.prompts = list({id(p): p for p in prompts}.values())
        index = {id(p): i for i, p in enumerate(self.prompts)}
        which = [index[id(p)] for p in prompts]
        order = sorted(range(len(which)), key=which.__getitem__)
        fair = len(which) * self.heads.num_keys // (4 * torch.get_num_threads())
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

    def keep(self, rows: Tensor) -> None:
        self.slot_N, self.written_N = self.slot_N[rows], self.written_N[rows]

    def widen(self, num: int) -> None:
        slots = len(self.own_tails[0]) // (self.heads.num_keys * LANES * padded(self.heads.depth))
        self.slot_N = torch.cat([self.slot_N, free_slots(self.slot_N, slots, num)])
        self.written_N = torch.cat([self.written_N, torch.zeros(num, dtype=torch.long)])

    def attend(self, layer: int, qkv_NX: Tensor, cosine_NF: Tensor, sine_NF: Tensor) -> Tensor:
        heads, num, dtype = self.heads, len(qkv_NX), qkv_NX.dtype
        angles = (num, heads.depth // 2)
        require((qkv_NX, (num, heads.columns)), (cosine_NF, angles), (sine_NF, angles))
        require((self.order_N, (num,)), (self.slot_N, (num,)), (self.written_N, (num,)))
        out_NX = qkv_NX.new_empty(num, heads.num * heads.depth)
        own = (self.own_keys[layer], self.own_tails[layer], self.own_values[layer])
        qkv, out, *own_tensors = pointers(dtype, qkv_NX, out_NX, *own)
        cosine, sine = pointers(torch.float32, cosine_NF, sine_NF)
        prompts = (self.prompt_keys, self.prompt_values, self.prompt_length)
        crews, *prompt_tensors = pointers(torch.long, self.crew_C3, *prompts)
        rows = pointers(torch.long, self.order_N, self.slot_N, self.written_N)
        sizes = (self.room, self.largest_crew, self.longest_prompt)
        crew = (crews, len(self.crew_C3))
        given = (qkv, cosine, sine, heads.num, heads.num_keys, heads.depth, heads.scale)
        kernel("decode", dtype)(*given, *crew, *prompt_tensors, layer, *own_tensors, *rows, *sizes, out)
        return out_NX


def table(heads: Heads, num_layers: int, num_rows: int, room: int, like: Tensor) -> PanelTable:
    size = num_rows * heads.num_keys * padded(heads.depth)
    keys, tails, values = (
        [like.new_empty(size * length) for _ in range(num_layers)] for length in (paneled(room), LANES, paneled(room))
    )
    return PanelTable(heads, keys, tails, values, room, torch.arange(num_rows), torch.zeros(num_rows, dtype=torch.long))
