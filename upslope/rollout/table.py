"""The attempts under way: which one stands at each place of the table, how far it is, and what it has written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from upslope.rollout.address import Address


@dataclass(frozen=True)
class Attempt:
    """One attempt to be made."""

    index: int
    """Which of the problems asked for."""
    problem: str
    sample: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """What an attempt wrote."""

    attempt: Attempt
    response: tuple[int, ...]
    logp: tuple[float, ...]


class Table:
    """N places, each with a position of its own; a free one stays at 0."""

    def __init__(self, num_rows: int, max_tokens: int, address: Address, device: torch.device) -> None:
        real = torch.float32 if device.type == "mps" else torch.float64  # no float64 there
        self._attempts: dict[int, Attempt] = {}
        self._address, self._max_tokens = address, max_tokens
        self.newest_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        """The token that is to be appended next: the newest one, or at first the prompt's last."""
        self.position_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        """Of the token that is to be drawn next, within the response."""
        self._live_N = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._uniform_NT = torch.zeros(num_rows, max_tokens, dtype=real, device=device)
        self._token_NT = torch.zeros(num_rows, max_tokens, dtype=torch.long, device=device)
        self._logp_NT = torch.zeros(num_rows, max_tokens, dtype=real, device=device)

    @property
    def live(self) -> list[int]:
        """The places whose attempts have not ended."""
        return sorted(self._attempts)

    @property
    def uniform_N(self) -> Tensor:
        """The number that decides each next token."""
        return self._uniform_NT.gather(1, self.position_N[:, None])[:, 0]

    def begin(self, places: Sequence[int], attempts: Sequence[Attempt]) -> None:
        """``attempts[i]`` takes ``places[i]``."""
        device, real = self._uniform_NT.device, self._uniform_NT.dtype
        place_R = torch.tensor(places, device=device)
        uniforms = self._address.uniforms([(a.problem, a.sample) for a in attempts], self._max_tokens)
        self._uniform_NT[place_R] = torch.from_numpy(uniforms).to(real).to(device)
        self.newest_N[place_R] = torch.tensor([a.prompt[-1] for a in attempts], device=device)
        self._live_N[place_R] = True
        self._attempts.update(zip(places, attempts, strict=True))

    def write(self, token_N: Tensor, logp_N: Tensor, end_ids: Tensor) -> list[int]:
        """Every place draws a token; returns the places whose attempts have ended with it."""
        at_N1 = self.position_N[:, None]
        self._token_NT.scatter_(1, at_N1, token_N[:, None])
        self._logp_NT.scatter_(1, at_N1, logp_N[:, None].to(self._logp_NT.dtype))
        self.newest_N = token_N
        self.position_N = self.position_N + self._live_N
        over_N = self._live_N & (torch.isin(token_N, end_ids) | (self.position_N == self._max_tokens))
        ended: list[int] = over_N.nonzero()[:, 0].tolist()
        return ended

    def take(self, places: Sequence[int]) -> list[Written]:
        """What was written at these places, which are free from now on."""
        if not places:
            return []
        place_R = torch.tensor(places, device=self._live_N.device)
        lengths = self.position_N[place_R].tolist()
        tokens = self._token_NT[place_R, : max(lengths)].tolist()
        logps = self._logp_NT[place_R, : max(lengths)].tolist()
        self._live_N[place_R] = False
        self.position_N[place_R] = 0
        return [
            Written(self._attempts.pop(place), tuple(token_T[:length]), tuple(logp_T[:length]))
            for place, length, token_T, logp_T in zip(places, lengths, tokens, logps, strict=True)
        ]

    def keep(self, places: Sequence[int]) -> None:
        """Drop all other places, which must be free."""
        self._attempts = {new: self._attempts[old] for new, old in enumerate(places)}
        row_R = torch.tensor(places, device=self._live_N.device)
        self.newest_N, self.position_N, self._live_N = self.newest_N[row_R], self.position_N[row_R], self._live_N[row_R]
        self._uniform_NT, self._token_NT = self._uniform_NT[row_R], self._token_NT[row_R]
        self._logp_NT = self._logp_NT[row_R]
