"""A batch that requests join and leave at any token: each with a distribution, a length and draws of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upslope.model.distribution import adjusted, chosen
from upslope.model.fast import Decoder
from upslope.rollout.address import Address
from upslope.rollout.draw import draw
from upslope.types import Sampling

MOST_TOP = 128
"""Likeliest tokens that can be told beside a token; more is a vocabulary, not an answer."""


class TokenTold(NamedTuple):
    """A token and how likely it was.

    >>> TokenTold(7, -0.5, ((7, -0.5), (9, -1.2))).top[1][0]
    9
    """

    id: int
    logp: float
    """In nats, under the distribution that it was drawn from (of greedy decoding and of given text: the model's)."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with theirs, the likeliest first."""


@dataclass(frozen=True)
class Guest:
    """What joins: a prompt, and how it is to be continued.

    >>> Guest((5, 6), Sampling(max_tokens=3), seed=1, sample=0).sampling.max_tokens
    3
    """

    prompt: tuple[int, ...]
    """Not empty."""
    sampling: Sampling
    seed: int
    sample: int
    """Seed and sample say every draw, whoever else is there."""
    num_top: int = 0
    """How many of the likeliest tokens are told beside each."""
    ends: frozenset[int] = frozenset()
    """Tokens that end it, beside those that end every response."""

    @functools.cached_property
    def kind(self) -> tuple[Sampling, int]:
        """Guests of one kind are drawn together. The lengths, which differ most, are no part of it."""
        return replace(self.sampling, max_tokens=max(1, self.sampling.min_tokens)), self.num_top


@dataclass(eq=False)
class Seat:
    """A row of the table, and how far its guest is."""

    guest: Guest
    uniforms: NDArray[np.float64]
    newest: int
    num_tokens: int = 0
    left: bool = field(default=False)
    """Nobody waits for it any more, or it has ended."""


class JoinedRows:
    """A decoder's rows, and who sits in them. Guests join between any two tokens where the decoder ``refills``; else
    all come at the beginning. What a guest is told does not depend on the company it has."""

    def __init__(
        self,
        decoder: Decoder,
        num_rows: int,
        room: int,
        end_ids: Sequence[int],
        device: torch.device,
        ban: Callable[[Tensor], Tensor] = lambda logits_NV: logits_NV,
    ) -> None:
        """The decoder was made for ``num_rows`` and for ``room`` tokens a row. ``ban``: what is never drawn gets no
        chance in logits [N, V]."""
        self._ban = ban
        self._decoder, self._end_ids, self._device = decoder, torch.tensor(end_ids, device=device), device
        self._ends = frozenset(end_ids)
        self.num_rows, self.room = num_rows, room
        self._seats: list[Seat] = []
        self._begun = False

    @property
    def live(self) -> list[Seat]:
        return [seat for seat in self._seats if not seat.left]

    @property
    def num_free(self) -> int:
        """How many guests could join now."""
        return self.num_rows - len(self.live) if self._decoder.refills or not self._begun else 0

    def join(self, guests: Sequence[Guest]) -> list[Seat]:
        """Their seats; at most ``num_free``, and none longer than ``room``."""
        if not self._begun:
            self._begun = True
            if self._decoder.refills:  # it grows as guests come; else all that it was made for are here
                self._decoder.keep(torch.arange(0, device=self._device))
            else:
                self._seats = [_vacant()] * len(guests)
        vacant = [row for row, seat in enumerate(self._seats) if seat.left]
        more = len(guests) - len(vacant)
        if more > 0:
            vacant += range(len(self._seats), len(self._seats) + more)
            self._decoder.widen(more)
            self._seats += [_vacant()] * more
        seats = [Seat(guest, _uniforms(guest), guest.prompt[-1]) for guest in guests]
        rows = vacant[: len(guests)]
        for row, seat in zip(rows, seats, strict=True):
            self._seats[row] = seat
        self._decoder.place(rows, [guest.prompt for guest in guests])
        return seats

    def step(self) -> list[tuple[Seat, TokenTold, bool]]:
        """Every live guest's next token, and whether it was the last: by an end token, or the guest's length.

        Raises NonFinite if logits are not finite.
        """
        self._drop()
        if not self._seats:
            return []
        newest_N = torch.tensor([seat.newest for seat in self._seats], device=self._device)
        logits_NV = self._ban(self._decoder.advance(newest_N))
        told: list[tuple[Seat, TokenTold, bool]] = []
        for (sampling, num_top), rows in self._alike().items():
            group = [self._seats[row] for row in rows]
            whole = len(rows) == len(self._seats)
            logits_RV = logits_NV if whole else logits_NV[torch.tensor(rows, device=self._device)]
            for seat, found in zip(group, self._drawn(logits_RV, group, sampling, num_top), strict=True):
                seat.newest, seat.num_tokens = found.id, seat.num_tokens + 1
                ended = found.id in self._ends or found.id in seat.guest.ends
                seat.left = ended or seat.num_tokens == seat.guest.sampling.max_tokens
                told.append((seat, found, seat.left))
        return told

    def _drop(self) -> None:
        """The rows of those who left, once that is worth it."""
        live = [row for row, seat in enumerate(self._seats) if not seat.left]
        num_gone = len(self._seats) - len(live)
        if num_gone and (not live or num_gone > self._decoder.slack * len(self._seats)):
            self._decoder.keep(torch.tensor(live, dtype=torch.long, device=self._device))
            self._seats = [self._seats[row] for row in live]

    def _alike(self) -> dict[tuple[Sampling, int], list[int]]:
        """Live rows by how they are drawn."""
        groups: dict[tuple[Sampling, int], list[int]] = {}
        for row, seat in enumerate(self._seats):
            if not seat.left:
                groups.setdefault(seat.guest.kind, []).append(row)
        return groups

    def _drawn(self, logits_RV: Tensor, group: Sequence[Seat], sampling: Sampling, num_top: int) -> list[TokenTold]:
        position_R = torch.tensor([seat.num_tokens for seat in group], device=self._device)
        real = torch.float32 if self._device.type == "mps" else torch.float64  # no float64 there
        uniform_R = torch.tensor([seat.uniforms[seat.num_tokens] for seat in group], dtype=real, device=self._device)
        if not (num_top or sampling.greedy):
            token_R, logp_R = draw(logits_RV, position_R, uniform_R, sampling, self._end_ids)
            return [TokenTold(*pair) for pair in zip(token_R.tolist(), logp_R.tolist(), strict=True)]
        logp_RV = adjusted(logits_RV, position_R, sampling, self._end_ids).log_softmax(dim=1)
        token_R, _ = draw(logits_RV, position_R, uniform_R, sampling, self._end_ids)
        return told_of(logp_RV, token_R, num_top)


def told_of(logp_RV: Tensor, token_R: Tensor, num_top: int) -> list[TokenTold]:
    """The tokens with what each distribution says of them and of its ``num_top`` likeliest."""
    own = chosen(logp_RV, token_R).tolist()
    best = logp_RV.topk(min(num_top, logp_RV.shape[1]), dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    tops = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
    return [TokenTold(*each) for each in zip(token_R.tolist(), own, tops, strict=True)]


def _uniforms(guest: Guest) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = Address(guest.seed, "serve").uniforms(
        [("", guest.sample)], guest.sampling.max_tokens
    )[0]
    return numbers


def _vacant() -> Seat:
    """Of a row that waits for its guest."""
    return Seat(Guest((0,), Sampling(), 0, 0), np.zeros(0), 0, left=True)
