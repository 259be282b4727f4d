"""The attempts under way: which request each row of the batch serves, how far it is, and what it has written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from upslope.errors import NonFinite
from upslope.rollout.address import Address
from upslope.rollout.base import Listener, Request
from upslope.rollout.draw import NOT_FINITE
from upslope.rollout.stopping import StopStrings


class Queued(NamedTuple):
    """A request, and its place among those given."""

    place: int
    request: Request


@dataclass(frozen=True)
class Written:
    """What was written for a request."""

    place: int
    request: Request
    response: tuple[int, ...]
    mask: tuple[bool, ...]
    """Whether the policy chose the token."""
    logp: tuple[float, ...]
    """In nats; 0 where it did not."""
    unanswered: int
    """How often the listener was asked and had nothing to say."""
    spans: tuple[tuple[int, int], ...]
    """(place of the first token, version of the weights that wrote from there on), in order."""
    stopped: bool = False
    """Whether its last token completes a stop string."""


class RunningBatch:
    """N rows, each with a position of its own; a free one stays at 0. Everything between two looks happens on the
    device: a row whose attempt ends stays at its length, and whatever it is given afterwards goes unheeded behind it.

    What the world says is laid down in a row beforehand, and read token by token like what the policy says, so that no
    decoder has to know of it: a row that hears advances with all others.
    """

    def __init__(
        self, num_rows: int, max_tokens: int, address: Address, device: torch.device, version: int = 0
    ) -> None:
        """``version``: of the weights that write; ``renew`` tells of others."""
        real = torch.float32 if device.type == "mps" else torch.float64  # no float64 there
        self._served: dict[int, Queued] = {}
        self._version = version
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._address, self._max_tokens = address, max_tokens
        self.newest_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        """The token that is to be appended next: the newest one, or at first the prompt's last."""
        self.position_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        """Of the token that is to be drawn next, within the response."""
        self._live_N = torch.zeros(num_rows, dtype=torch.bool, device=device)
        """Whether the row is served and its attempt has not ended."""
        self._given_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        """Where the world's last words end, as a position."""
        self._first_N = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._stop_N = torch.full((num_rows,), max_tokens, device=device)
        """The positions of an attempt's turn: its first token's, and the one before which it is cut."""
        shape = (num_rows, max_tokens + 1)  # and one place for what ended rows are given
        self._chosen_NT = torch.ones(*shape, dtype=torch.bool, device=device)
        self._listening: dict[int, Listener] = {}
        self._stopped: set[int] = set()
        self._unanswered: dict[int, int] = {}
        self._uniform_NT = torch.zeros(*shape, dtype=real, device=device)
        self._token_NT = torch.zeros(*shape, dtype=torch.long, device=device)
        self._logp_NT = torch.zeros(*shape, dtype=real, device=device)
        self._num_writes = self._num_seen = self._since_look = 0
        self._over_N = torch.zeros(num_rows, dtype=torch.bool, device=device)
        """The rows whose attempts have ended since the last look."""
        self._over_by: dict[int, int] = {}
        """How often will have been written when each row's attempt is over at the latest."""

    @property
    def live(self) -> list[int]:
        """The rows whose attempts had not ended at the last look."""
        return sorted(self._served)

    @property
    def most_left(self) -> int:
        """Tokens that the longest of the live rows may still get."""
        return max(self._over_by[row] for row in self._served) - self._num_writes

    @property
    def uniform_N(self) -> Tensor:
        """The number that decides each next token."""
        return self._uniform_NT.gather(1, self.position_N[:, None])[:, 0]

    def begin(self, rows: Sequence[int], queued: Sequence[Queued]) -> None:
        """``queued[i]`` takes ``rows[i]``."""
        device, real = self._uniform_NT.device, self._uniform_NT.dtype
        row_R = torch.tensor(rows, device=device)
        requests = [q.request for q in queued]
        stops = [r.stop(self._max_tokens) for r in requests]
        uniforms = self._address.uniforms([(r.problem_id, r.sample) for r in requests], self._max_tokens)
        self._uniform_NT[row_R, : self._max_tokens] = torch.from_numpy(uniforms).to(real).to(device)
        self.newest_N[row_R] = torch.tensor([r.prompt[-1] for r in requests], device=device)
        self._live_N[row_R] = True
        self._first_N[row_R] = torch.tensor([r.begin for r in requests], device=device)
        self._stop_N[row_R] = torch.tensor(stops, device=device)
        self.position_N[row_R] = self._first_N[row_R]
        self._given_N[row_R] = 0
        self._chosen_NT[row_R] = True
        self._served.update(zip(rows, queued, strict=True))
        self._num_seen += sum(r.begin for r in requests)
        self._over_by.update(
            (row, self._num_writes + stop - r.begin) for row, stop, r in zip(rows, stops, requests, strict=True)
        )
        self._spans.update((row, [(r.begin, self._version)]) for row, r in zip(rows, requests, strict=True))
        pairs = zip(rows, requests, strict=True)
        self._listening.update((row, r.listener) for row, r in pairs if r.listener is not None)

    def write(self, token_N: Tensor, logp_N: Tensor, end_ids: Tensor) -> None:
        """Every row takes the token it drew, or the world's. Nothing that the host keeps is read, or changed, and every
        tensor stays where it is: see ``passed``."""
        at_N1 = self.position_N[:, None]
        chosen_N = self.position_N >= self._given_N
        torch.where(chosen_N, token_N, self._token_NT.gather(1, at_N1)[:, 0], out=self.newest_N)
        self._token_NT.scatter_(1, at_N1, self.newest_N[:, None])
        logp_N = torch.where(chosen_N, logp_N, logp_N.new_zeros(()))
        self._logp_NT.scatter_(1, at_N1, logp_N[:, None].to(self._logp_NT.dtype))
        self.position_N += self._live_N
        stops_N = chosen_N & torch.isin(self.newest_N, end_ids)
        over_N = self._live_N & (stops_N | (self.position_N == self._stop_N))
        self._live_N ^= over_N
        self._over_N |= over_N

    def passed(self, num: int) -> None:
        """So many tokens were written in every row since the last look."""
        self._num_writes += num
        self._since_look += num

    def held(self) -> list[Tensor]:
        """Everything ``write`` and a draw read that changes from token to token, where it is now."""
        return [mine for mine in vars(self).values() if isinstance(mine, Tensor)]

    def look(self) -> tuple[int, list[int]]:
        """(how many tokens live rows got since the last look, the rows whose attempts have ended)."""
        once, ended = self._since_look == 1, self._over_N.nonzero()[:, 0].tolist()
        new = len(self._served) if once else int(self.position_N.sum()) - self._num_seen
        self._over_N.zero_()
        self._since_look, self._num_seen = 0, self._num_seen + new
        return new, ended

    def require_finite(self) -> None:
        """Raise NonFinite if a row has a log-probability that is none (``draw_in_blocks``)."""
        if bool(self._logp_NT.isnan().any()):
            raise NonFinite(NOT_FINITE)

    def stop(self, ended: Sequence[int], stops: StopStrings, min_tokens: int, end_ids: Sequence[int]) -> list[int]:
        """The same rows, and those whose policy has just completed a stop string; not before ``min_tokens``."""
        newest, position, given = self.newest_N.tolist(), self.position_N.tolist(), self._given_N.tolist()
        first = self._first_N.tolist()
        for row in self._served:
            chosen = min_tokens < position[row] > given[row] and newest[row] not in end_ids
            if (
                chosen
                and stops.may_end(newest[row])
                and stops.ends(self._token_NT[row, first[row] : position[row]].tolist())
            ):
                self._stopped.add(row)
        return sorted({*ended, *self._stopped})

    def hear(self, ended: Sequence[int]) -> None:
        """Every world whose attempt has not ended may reply to the token that its policy just chose."""
        if not self._listening:
            return
        newest, position, given = self.newest_N.tolist(), self.position_N.tolist(), self._given_N.tolist()
        for row, listener in self._listening.items():
            if row in ended or position[row] <= given[row] or not listener.pauses(newest[row]):
                continue
            first, stop = int(self._first_N[row]), int(self._stop_N[row])
            reply = listener.reply(self._token_NT[row, first : position[row]].tolist())
            if reply:
                self._lay_down(row, position[row], reply[: stop - position[row]])
            elif reply is not None:
                self._unanswered[row] = self._unanswered.get(row, 0) + 1

    def _lay_down(self, row: int, begin: int, tokens: Sequence[int]) -> None:
        end = begin + len(tokens)
        self._token_NT[row, begin:end] = torch.tensor(tokens, device=self._token_NT.device)
        self._chosen_NT[row, begin:end] = False
        self._given_N[row] = end

    def renew(self, version: int) -> None:
        """Every token from here on is drawn from weights of this version."""
        self._version = version
        position = self.position_N.tolist()
        for row in self._served:
            before = [span for span in self._spans[row] if span[0] < position[row]]
            self._spans[row] = [*before, (position[row], version)]

    def take(self, rows: Sequence[int]) -> list[Written]:
        """What was written in these rows, which are free from now on."""
        if not rows:
            return []
        row_R = torch.tensor(rows, device=self._live_N.device)
        lengths = self.position_N[row_R].tolist()
        self._num_seen -= sum(lengths)
        tokens = self._token_NT[row_R, : max(lengths)].tolist()
        logps = self._logp_NT[row_R, : max(lengths)].tolist()
        masks = self._chosen_NT[row_R, : max(lengths)].tolist()
        firsts = self._first_N[row_R].tolist()
        self._live_N[row_R] = False
        self.position_N[row_R] = 0
        stopped, self._stopped = self._stopped, set()  # all of them are among these rows
        for row in rows:
            self._listening.pop(row, None)
            self._over_by.pop(row)
        return [
            Written(
                *self._served.pop(row),
                tuple(token_T[first:length]),
                tuple(mask_T[first:length]),
                tuple(logp_T[first:length]),
                self._unanswered.pop(row, 0),
                tuple((place - first, version) for place, version in self._spans.pop(row)),
                row in stopped,
            )
            for row, first, length, token_T, mask_T, logp_T in zip(
                rows, firsts, lengths, tokens, masks, logps, strict=True
            )
        ]

    def grow(self, num: int) -> None:
        """So many more rows, free ones, behind the others."""
        fresh = RunningBatch(num, self._max_tokens, self._address, self.newest_N.device)
        for name, mine in vars(self).items():
            if isinstance(mine, torch.Tensor):
                setattr(self, name, torch.cat([mine, getattr(fresh, name)]))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, which must be free."""
        self._served = {new: self._served[old] for new, old in enumerate(rows) if old in self._served}
        self._spans = {new: self._spans[old] for new, old in enumerate(rows) if old in self._spans}
        self._over_by = {new: self._over_by[old] for new, old in enumerate(rows) if old in self._over_by}
        self._listening = {new: self._listening[old] for new, old in enumerate(rows) if old in self._listening}
        self._unanswered = {new: self._unanswered[old] for new, old in enumerate(rows) if old in self._unanswered}
        row_R = torch.tensor(rows, device=self._live_N.device)
        self.newest_N, self.position_N, self._live_N = self.newest_N[row_R], self.position_N[row_R], self._live_N[row_R]
        self._uniform_NT, self._token_NT = self._uniform_NT[row_R], self._token_NT[row_R]
        self._logp_NT = self._logp_NT[row_R]
        self._given_N, self._chosen_NT = self._given_N[row_R], self._chosen_NT[row_R]
        self._first_N, self._stop_N = self._first_N[row_R], self._stop_N[row_R]
        self._over_N = self._over_N[row_R]
