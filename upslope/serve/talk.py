"""One request's responses, from the engine's thread to the loop that answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from starlette.requests import Request as HttpRequest

from upslope.model.policy import Policy
from upslope.rollout.joining import Guest, TokenTold
from upslope.serve.engine import Reading, Said, ServingEngine, Writing
from upslope.serve.options import Declined, Ordered
from upslope.types import Ended

T = TypeVar("T")
MOST_WAITING = 4096
"""Responses in the queue; who asks for more is told to come back."""


class HungUp(Exception):
    """Whoever asked has closed the connection."""


@dataclass(frozen=True)
class Whole:
    """A response that has ended.

    >>> Whole("hi", (TokenTold(7, -0.5),), "stop").ended
    'stop'
    """

    text: str
    tokens: tuple[TokenTold, ...]
    ended: Ended


class Talk:
    """What is asked of the engine, with everything it says; left early, what is not done is dropped."""

    def __init__(self, engine: ServingEngine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[tuple[int, Said | Exception]] = asyncio.Queue()

    def _tell(self, place: int, what: Said | Exception) -> None:
        self._loop.call_soon_threadsafe(self._said.put_nowait, (place, what))

    async def pieces(
        self, guests: Sequence[Guest], asked: Ordered, *, streamed: bool
    ) -> AsyncIterator[tuple[int, Said]]:
        """(which guest, what was written), as it is written."""
        jobs = [Writing(guest, asked.stops, streamed, partial(self._tell, place)) for place, guest in enumerate(guests)]
        async for each in self._follow(jobs):
            yield each

    async def written(self, guests: Sequence[Guest], asked: Ordered) -> list[Whole]:
        found = {}
        async for place, piece in self.pieces(guests, asked, streamed=False):
            assert piece.ended is not None
            found[place] = Whole(piece.text, piece.tokens, piece.ended)
        return [found[place] for place in range(len(guests))]

    async def read(self, texts: Sequence[tuple[int, ...]], num_top: int) -> list[tuple[TokenTold, ...]]:
        """Of every text all tokens but the first."""
        jobs = [Reading(ids, num_top, partial(self._tell, place)) for place, ids in enumerate(texts)]
        found = {place: piece.tokens async for place, piece in self._follow(jobs)}
        return [found[place] for place in range(len(texts))]

    async def _follow(self, jobs: Sequence[Writing | Reading]) -> AsyncIterator[tuple[int, Said]]:
        if self._engine.num_asked + len(jobs) > MOST_WAITING:
            raise Declined("too many requests are waiting; try again later", status=429, kind="rate_limit_error")
        try:
            self._engine.ask(jobs)
            num_left = len(jobs)
            while num_left:
                place, said = await self._said.get()
                if isinstance(said, Exception):
                    raise said
                num_left -= said.ended is not None
                yield place, said
        finally:
            for job in jobs:
                job.cancelled = True


async def unless_gone(request: HttpRequest, work: Awaitable[T]) -> T:
    """What ``work`` comes to. Raises HungUp, with the work given up, once the connection is closed."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_closed(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HungUp
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _closed(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def guests_of(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    asked: Ordered,
    num_top: int,
    longest: int,
    ends: frozenset[int] = frozenset(),
) -> list[Guest]:
    """``asked.num`` for each prompt, in order. The same seed gives the same responses, alone or beside others. Raises
    Declined for a prompt and a response that do not fit the model's positions.

    Where no length was asked for, it is as much as there is room for, ``longest`` at most.
    """
    seed = asked.options.get("seed", secrets.randbits(63))
    made = []
    for prompt in prompts:
        room = policy.max_positions - len(prompt)
        num = asked.max_tokens if asked.max_tokens is not None else min(longest, max(1, room))
        if num > room:
            why = f"; of the model: {policy.plain.bound}" if policy.plain.bound else ""
            raise Declined(
                f"{len(prompt)} prompt tokens and max_tokens = {num} do not fit the model's {policy.max_positions} "
                f"positions; shorten the prompt or lower max_tokens{why}",
                "max_tokens",
                code="context_length_exceeded",
            )
        if num:
            sampling = asked.sampling(num)
            made += [Guest(prompt, sampling, seed, sample, num_top, ends) for sample in range(asked.num)]
    return made
