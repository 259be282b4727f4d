"""Where packed tokens see each other."""

from __future__ import annotations

import torch
from torch import Tensor


class Spans:
    """Where packed tokens see each other: segments [B, 4] (start, length, prompt's start and length), stems first, and
    each stem's branches [S, 2] (first, number)."""

    def __init__(self, segments: list[tuple[int, int, int, int]], children: list[tuple[int, int]]) -> None:
        self.segments = torch.tensor(segments, dtype=torch.long).reshape(-1, 4)
        self.children = torch.tensor(children, dtype=torch.long).reshape(-1, 2)
        self.num_tokens = int(self.segments[:, 1].sum())
        self.longest = int((self.segments[:, 1] + self.segments[:, 3]).max()) if segments else 0
        end, num_stems = 0, len(children)
        for start, length, *_ in sorted(segments):
            if start != end or length < 0:
                raise ValueError(f"the segments do not cover token {end} once")
            end += length
        branches = [(stem, place) for stem, (first, num) in enumerate(children) for place in range(first, first + num)]
        seen = [(0, 0)] * num_stems + [segments[stem][:2] for stem, _ in branches]
        if [s[2:] for s in segments] != seen or [p for _, p in branches] != list(range(num_stems, len(segments))):
            raise ValueError("stems come first and see no prompt, then their branches, each of which sees its stem")

    def depth(self, qkv_KX: Tensor, num_heads: int, num_key_heads: int) -> int:
        """Of a head, from the width of all heads' queries, keys and values. Raises ValueError for rows that are not
        these tokens'."""
        num, width = qkv_KX.shape
        depth, rest = divmod(width, num_heads + 2 * num_key_heads)
        if rest or num_heads % num_key_heads or self.num_tokens != num:
            raise ValueError(
                f"{num} rows of {width} are not {self.num_tokens} tokens' {num_heads} heads and {num_key_heads} of keys"
            )
        return depth

    def shared_offsets(self, num_heads: int, padded_depth: int) -> tuple[Tensor, int]:
        """Where each branch's copy of its prompt's gradients lies, in floats, and how many there are."""
        sizes = 2 * num_heads * padded_depth * self.segments[:, 3]
        return torch.cumsum(sizes, 0) - sizes, int(sizes.sum())
