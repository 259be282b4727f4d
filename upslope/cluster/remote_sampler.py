"""Attempts written by other processes: shared out, gathered as they end, made again where a process dies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from upslope.cluster.crew import MOST_DEATHS, Crew, Member, fate
from upslope.cluster.parcel import Parcel
from upslope.errors import NonFinite, UserError
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, More, Progress, Request, require_room
from upslope.types import Rollout, Sampling

MOMENT = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class _Loaded:
    """Weights that were put where every process can fetch them."""

    handle: Any
    version: int
    checksum: str


@dataclass
class _Share:
    """Requests that one process has been given."""

    places: list[int]
    member: Member
    actor: Any
    loaded: _Loaded
    key: int
    call: Any
    written: int = 0
    deaths: int = 0
    """Of processes in a row that were given these very requests."""
    left: set[int] = field(default_factory=set)
    """Places among all requests that have not ended."""


class RemoteSampler:
    """A ``Sampler`` over processes that each hold the policy's weights.

    What an attempt is follows from its address, so it does not matter who writes it, nor whether it is written twice.
    """

    listens = True
    takes_more = False

    def __init__(self, crew: Crew, max_positions: int, *, in_flight: bool = False) -> None:
        """``in_flight``: new weights reach attempts in the middle; so one that is written twice, since its process
        died, may be another one."""
        self._crew, self._max_positions, self._in_flight = crew, max_positions, in_flight
        self._loaded = _Loaded(None, 0, "")
        self._handed: set[tuple[int, str]] = set()
        self._keys = itertools.count()

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Write with these weights from the next ``generate`` on. They are handed over with its requests, so this waits
        for nobody: not for attempts that are still written with older ones. Those go on with the new weights from some
        token on, where new weights may come in flight."""
        parcel = Parcel.of(weights, version)
        loaded = _Loaded(ray.put(parcel), version, parcel.checksum)
        self._handed.add((version, parcel.checksum))
        self._loaded = loaded
        if self._in_flight:
            for member in self._crew.members:
                member.actor.renew.remote(version, [loaded.handle])

    @property
    def version(self) -> int:
        return self._loaded.version

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        progress: Progress | None = None,
        finished: Finished | None = None,
        more: More | None = None,
    ) -> list[Rollout]:
        """See ``Sampler.generate``. Each process takes consecutive requests, and no problem is divided."""
        require_room(requests, sampling, self._max_positions)
        found: dict[int, Rollout] = {}
        done = told = 0
        num, loaded = len(self._crew.members), self._loaded
        shares = [
            self._give(member, places, requests, sampling, address, loaded)
            for member, places in zip(self._crew.members, by_problem(requests, num), strict=False)
            if places
        ]
        while shares:
            ray.wait([share.call for share in shares], timeout=MOMENT)
            for share in list(shares):
                over, why = self._look(share, found, finished)
                if over:
                    shares.remove(share)
                    ended = (found[place] for place in share.places if place not in share.left)
                    done += sum(rollout.num_chosen for rollout in ended)
                if why:
                    deaths = share.deaths + 1 if len(share.left) == len(share.places) else 1
                    if deaths == MOST_DEATHS:
                        raise UserError(f"{share.member.where} {why}; so did {deaths - 1} before, over the same work")
                    self._crew.replace(share.member, share.actor, why)
                    left = sorted(share.left)
                    now = self._loaded if self._in_flight else loaded
                    again = self._give(share.member, left, requests, sampling, address, now)
                    shares.append(replace(again, deaths=deaths))
            if progress is not None:
                told = max(told, done + sum(share.written for share in shares))
                progress(told, len(found))
        return [found[place] for place in range(len(requests))]

    def _give(
        self,
        member: Member,
        places: Sequence[int],
        requests: Sequence[Request],
        sampling: Sampling,
        address: Address,
        loaded: _Loaded,
    ) -> _Share:
        mine, key, actor = [requests[p] for p in places], next(self._keys), member.actor
        try:
            call = actor.write.remote(key, [loaded.handle], mine, sampling, address)
        except (TypeError, AttributeError) as error:
            raise UserError(
                f"the world of an attempt cannot be handed to another process ({error}); make its episode plain data, "
                "or set cluster.samplers=0"
            ) from None
        return _Share(list(places), member, actor, loaded, key, call, left=set(places))

    def _look(self, share: _Share, found: dict[int, Rollout], finished: Finished | None) -> tuple[bool, str]:
        """(whether it is over, why its process died if it did), after taking what has ended."""
        try:
            ready, _ = ray.wait([share.call], timeout=0)
            share.written, ended = ray.get(share.actor.news.remote(share.key))
            for place, rollout in ended:
                whole = share.places[place]
                share.left.discard(whole)
                found[whole] = rollout
                if finished is not None:
                    finished(whole, rollout)
            if ready:
                self._require_weights(share, ray.get(share.call))
                share.actor.forget.remote(share.key)
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, NonFinite)):
                raise error.cause from None
            raise
        except RayError as error:
            return True, share.member.ended or fate(share.member, error)
        return bool(ready), ""

    def _require_weights(self, share: _Share, used: Sequence[tuple[int, str]]) -> None:
        """Raise UserError unless it used the weights it was given, and none that nobody was given."""
        wanted = (share.loaded.version, share.loaded.checksum)
        strange = [found for found in used[:1] if found != wanted]
        strange += [found for found in used[1:] if found not in self._handed or not self._in_flight]
        for version, checksum in strange:
            raise UserError(
                f"{share.member.where} wrote with other weights than it was given: version {version} with checksum "
                f"{checksum[:12]}, and {wanted[0]} with {wanted[1][:12]} was sent"
            )


def by_problem(requests: Sequence[Request], num: int) -> list[list[int]]:
    """Consecutive places for each of ``num`` processes, about as many each; the attempts at a problem stay together,
    for they share their prompt.

    >>> r = [Request(p, s, (1,)) for p in "abc" for s in (0, 1)]
    >>> by_problem(r, 2)
    [[0, 1], [2, 3, 4, 5]]
    """
    problems: list[list[int]] = []
    for place, request in enumerate(requests):
        if not problems or requests[problems[-1][-1]].problem_id != request.problem_id:
            problems.append([])
        problems[-1].append(place)
    found: list[list[int]] = [[] for _ in range(num)]
    before = 0
    for places in problems:
        found[min(num - 1, int((before + len(places) / 2) * num / len(requests)))] += places
        before += len(places)
    return found
