"""Rollouts laid end to end: no padding, and a prompt that several attempts share is there once.

A layout says where every token lies (one axis K), which tokens each token may see, and which hidden state predicts
which sampled token. The last token of a response is left out: nothing is predicted from it.

Two kinds of segment exist. A *stem* sees itself causally: a prompt, or a prompt with its only response. A *branch*
is one of several responses to a shared prompt: it sees the whole prompt, then itself causally.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from upslope.forks import Fork
from upslope.model.cuts import Halves, halves_of
from upslope.native.spans import Spans


class HasTokens(Protocol):
    """A prompt and a response to it: what a model sees of a rollout."""

    @property
    def prompt(self) -> tuple[int, ...]: ...
    @property
    def response(self) -> tuple[int, ...]: ...
    @property
    def mask(self) -> tuple[bool, ...]:
        """Per response token: whether it is to be scored."""
        ...

    @property
    def forks(self) -> tuple[Fork, ...]:
        """Where the response goes on behind another prompt."""
        ...


class Tokens(NamedTuple):
    """The least that can be laid out and scored.

    >>> Tokens(prompt=(5, 6), response=(7, 2), mask=(True, True)).response
    (7, 2)
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[bool, ...]
    forks: tuple[Fork, ...] = ()


class ForkPiece(NamedTuple):
    """A stretch of a response and the prompt that stands before it: all of it, where there are no forks."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[bool, ...]
    row: int
    column: int
    """Which rollout, and the place of its first token in the whole response."""
    forks: tuple[Fork, ...] = ()


def pieces_of(rollouts: Sequence[HasTokens]) -> list[ForkPiece]:
    """What a model is given of these rollouts: a sequence each, and one more for every fork.

    >>> row = Tokens((5, 6), (7, 2, 9, 8), (True, True, False, True), (Fork(3, (5, 9)),))
    >>> [(piece.prompt, piece.response, piece.column) for piece in pieces_of([row])]
    [((5, 6), (7, 2, 9), 0), ((5, 9), (8,), 3)]
    """
    found = []
    for row, rollout in enumerate(rollouts):
        starts = [Fork(0, rollout.prompt), *rollout.forks]
        for start, end in zip(starts, [*(f.begin for f in rollout.forks), len(rollout.response)], strict=True):
            inside = slice(start.begin, end)
            found.append(ForkPiece(start.prompt, rollout.response[inside], rollout.mask[inside], row, start.begin))
    return found


def num_read(rollout: HasTokens) -> int:
    """Tokens of a rollout that a model is given: its prompts and its response."""
    return len(rollout.prompt) + sum(len(fork.prompt) for fork in rollout.forks) + len(rollout.response)


@dataclass(frozen=True)
class Segments:
    """B segments of one kind as index rectangles into K; padding repeats token 0 and its output is never read."""

    query_BL: Tensor
    key_BS: Tensor
    visible_B1LS: Tensor | None
    """bool; None where plain causal order among the queries says it all."""


@dataclass(frozen=True)
class Layout:
    """Where K tokens lie and who sees whom, for the packed attention."""

    id_K: Tensor
    position_K: Tensor
    """Position within prompt plus response, for rotary and absolute position embeddings."""
    predictor_R: Tensor
    """The token k whose hidden state predicts the r-th scored token."""
    target_R: Tensor
    row_R: Tensor
    """Which rollout, and which token of its response: the r-th scored token's place in an NT rectangle."""
    column_R: Tensor
    stems: tuple[tuple[int, int], ...]
    """(start, length)."""
    branches: tuple[tuple[int, int, int, int], ...]
    """(start, length, prompt's start, prompt's length), those of one stem next to each other."""
    children: tuple[tuple[int, int], ...]
    """Of every stem: (its first branch, how many)."""

    @property
    def num_tokens(self) -> int:
        return len(self.id_K)

    @functools.cached_property
    def segments(self) -> tuple[Segments, ...]:
        """The kinds of segment as rectangles, for attention that wants them padded."""
        found = (_stems(self.stems), _branches(self.branches))
        return tuple(_to(s, self.id_K.device) for s in found if s is not None)

    @functools.cached_property
    def place_K(self) -> Tensor:
        """Where token k's output stands in the concatenated flat outputs of ``segments``."""
        return _places(self.stems, self.branches, self.num_tokens).to(self.id_K.device)

    @functools.cached_property
    def spans(self) -> Spans:
        """The same segments for the native attention, which needs no rectangles."""
        num = len(self.stems)
        stems = [(start, length, 0, 0) for start, length in self.stems]
        return Spans([*stems, *self.branches], [(num + first, count) for first, count in self.children])

    @functools.cached_property
    def halves(self) -> Halves:
        """The same segments for kernels that know sequences of unequal length and no mask."""
        return halves_of(self.stems, self.branches, self.children, self.id_K.device)

    def call(self) -> dict[str, Any]:
        """Arguments for a transformers model that runs with the packed attention, to be called inside of
        ``attention.planned(layout)``; logits [1, R, V]."""
        return {
            "input_ids": self.id_K[None],
            "position_ids": self.position_K[None],
            "logits_to_keep": self.predictor_R,
            "use_cache": False,
        }


def lay_out(rollouts: Sequence[HasTokens], device: torch.device, *, share_prompts: bool = True) -> Layout:
    """The layout of these rollouts; neighbours with equal prompts share one copy (``share_prompts=False``: never).

    Prompts must not be empty (the first token would have no predictor).
    """
    ids: list[int] = []
    positions: list[int] = []
    stems: list[tuple[int, int]] = []
    branches: list[tuple[int, int, int, int]] = []
    children: list[tuple[int, int]] = []
    scored: list[tuple[int, int, int, int]] = []

    def append(tokens: Sequence[int], first_position: int) -> int:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(first_position, first_position + len(tokens)))
        return start

    pieces = pieces_of(rollouts)
    for rows in _runs_of_equal_prompts(pieces, share_prompts):
        prompt = pieces[rows[0]].prompt
        if not prompt:
            raise ValueError(f"rollout {pieces[rows[0]].row} has an empty prompt: nothing predicts its first token")
        start = append(prompt, 0)
        last = start + len(prompt) - 1
        if len(rows) == 1:
            append(pieces[rows[0]].response[:-1], len(prompt))
            stems.append((start, len(ids) - start))
        else:
            stems.append((start, len(prompt)))
        first_branch = len(branches)
        for row in rows:
            piece = pieces[row]
            begin = last + 1
            if len(rows) > 1 and len(piece.response) > 1:
                begin = append(piece.response[:-1], len(prompt))
                branches.append((begin, len(ids) - begin, start, len(prompt)))
            for i, (token, chosen) in enumerate(zip(piece.response, piece.mask, strict=True)):
                if chosen:
                    scored.append((last if i == 0 else begin + i - 1, token, piece.row, piece.column + i))
        children.append((first_branch, len(branches) - first_branch))

    return _layout(ids, positions, device, scored, stems, branches, children)


def lay_out_prompts(prompts: Sequence[tuple[int, ...]], device: torch.device) -> Layout:
    """The layout of sequences of which nothing is scored, each a stem of its own: what a decoder computes before it
    begins. None may be empty."""
    lengths = [len(prompt) for prompt in prompts]
    stems = list(zip(itertools.accumulate(lengths, initial=0), lengths, strict=False))
    ids = [token for prompt in prompts for token in prompt]
    positions = [position for length in lengths for position in range(length)]
    return _layout(ids, positions, device, [], stems, [], [(0, 0)] * len(stems))


def _layout(
    ids: Sequence[int],
    positions: Sequence[int],
    device: torch.device,
    scored: Sequence[tuple[int, int, int, int]],
    stems: Sequence[tuple[int, int]],
    branches: Sequence[tuple[int, int, int, int]],
    children: Sequence[tuple[int, int]],
) -> Layout:
    """As tensors. ``scored``: (predictor, target, row, column) of every token that is."""
    table = torch.tensor(scored, dtype=torch.long).reshape(-1, 4).to(device)
    return Layout(
        id_K=torch.tensor(ids, dtype=torch.long, device=device),
        position_K=torch.tensor(positions, dtype=torch.long, device=device),
        predictor_R=table[:, 0],
        target_R=table[:, 1],
        row_R=table[:, 2],
        column_R=table[:, 3],
        stems=tuple(stems),
        branches=tuple(branches),
        children=tuple(children),
    )


def _runs_of_equal_prompts(pieces: Sequence[ForkPiece], share: bool) -> list[list[int]]:
    runs: list[list[int]] = []
    for row, piece in enumerate(pieces):
        if share and runs and pieces[runs[-1][0]].prompt == piece.prompt:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _rectangle(spans: Sequence[tuple[int, int]]) -> Tensor:
    """Index rectangle of (start, length) spans; padding is 0."""
    start_B, length_B = torch.tensor(spans, dtype=torch.long).T
    offset_L = torch.arange(int(length_B.max()))
    return torch.where(offset_L < length_B[:, None], start_B[:, None] + offset_L, 0)


def _stems(stems: Sequence[tuple[int, int]]) -> Segments | None:
    if not stems:
        return None
    index_BL = _rectangle(stems)
    return Segments(index_BL, index_BL, None)  # padding comes last, so causal order already hides it


def _branches(branches: Sequence[tuple[int, int, int, int]]) -> Segments | None:
    if not branches:
        return None
    own_BL = _rectangle([(start, length) for start, length, _, _ in branches])
    prompt_BM = _rectangle([(start, length) for _, _, start, length in branches])
    prompt_length_B = torch.tensor([length for *_, length in branches])
    num_own, num_prompt = own_BL.shape[1], prompt_BM.shape[1]
    sees_prompt_B1M = (torch.arange(num_prompt) < prompt_length_B[:, None])[:, None, :]
    sees_own_LL = torch.ones(num_own, num_own, dtype=torch.bool).tril()
    visible_BLS = torch.cat([sees_prompt_B1M.expand(-1, num_own, -1), sees_own_LL.expand(len(branches), -1, -1)], dim=2)
    return Segments(own_BL, torch.cat([prompt_BM, own_BL], dim=1), visible_BLS[:, None])


def _places(stems: Sequence[tuple[int, int]], branches: Sequence[tuple[int, int, int, int]], num: int) -> Tensor:
    place_K = torch.zeros(num, dtype=torch.long)
    offset = 0
    for spans in (list(stems), [(start, length) for start, length, _, _ in branches]):
        width = max((length for _, length in spans), default=0)
        for start, length in spans:
            place_K[start : start + length] = torch.arange(offset, offset + length)
            offset += width
    return place_K


def _to(segments: Segments, device: torch.device) -> Segments:
    visible = segments.visible_B1LS
    return Segments(
        segments.query_BL.to(device), segments.key_BS.to(device), None if visible is None else visible.to(device)
    )
