"""Conversations over any sampler: the policy writes a turn, its world replies, and so on.

A turn is a request of its own, whose prompt is everything so far. Worlds reply in threads: whoever waits for one is in
no sampler's table meanwhile, and comes back with its next turn. A sampler that ``takes_more`` is given it while it
writes those of the others; another one is asked in rounds, each with all turns that are ready by then.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from upslope.model.renderer import Renderer, prompt_of
from upslope.rollout.address import Address
from upslope.rollout.base import Finished, Progress, Request, Sampler
from upslope.rollout.listener import Listeners
from upslope.rollout.talk import OngoingAttempt
from upslope.tasks.episode import Episode
from upslope.tasks.response import NO_RUN, Standing
from upslope.types import Ended, Message, Problem, Rollout, Sampling, Score

MOMENT = 0.1
"""Seconds between two looks at the clock while all wait for their worlds."""
OPENED_AT_ONCE = 32
"""Worlds that begin at the same time."""
Now = Callable[[], float]


class Attempted(NamedTuple):
    """An attempt to be made."""

    problem: Problem
    sample: int
    episode: Episode | None


class _Heard(NamedTuple):
    """What a world's thread brought back."""

    number: int
    of: str
    """``reply`` or ``score``."""
    found: Any


@dataclass
class _Waiting:
    """An attempt whose world is at work."""

    of: str
    ended: Ended = "stop"


@dataclass
class Conversations:
    """All attempts of one ``generate``, and what each waits for."""

    talks: Sequence[OngoingAttempt]
    renderer: Renderer
    progress: Progress | None
    finished: Finished | None
    clock: Now
    standing: Standing = NO_RUN
    done: dict[int, Rollout] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = [self.clock()] * len(self.talks)
        self._order: list[int] = list(range(len(self.talks)))
        """Which attempt's turn each request is."""
        self._ready: list[int] = []
        self._waiting: dict[int, _Waiting] = {}
        self._heard: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
        self._base = self._written = 0

    def run(self, sampler: Sampler, sampling: Sampling, address: Address) -> list[Rollout]:
        """Every attempt, in order."""
        requests: Sequence[Request] | None = [talk.request() for talk in self.talks]
        if getattr(sampler, "takes_more", False):
            sampler.generate(requests or (), sampling, address, self._tell, self._take, self.more)
        else:
            while requests:
                first = len(self._order) - len(requests)
                self._round(sampler, requests, first, sampling, address)
                requests = self.more(True)
        return [self.done[number] for number in range(len(self.talks))]

    def _round(
        self, sampler: Sampler, requests: Sequence[Request], first: int, sampling: Sampling, address: Address
    ) -> None:
        self._base = self._written
        told: set[int] = set()

        def take(place: int, rollout: Rollout) -> None:
            told.add(place)
            self._take(first + place, rollout)

        returned = sampler.generate(requests, sampling, address, self._tell, take)
        for place, rollout in enumerate(returned):
            if place not in told:  # a sampler that tells of nothing before it is through
                take(place, rollout)

    def _tell(self, num_tokens: int, num_turns: int) -> None:
        self._written = self._base + num_tokens
        if self.progress is not None:
            self.progress(self._written, len(self.done))

    def _take(self, place: int, rollout: Rollout) -> None:
        """A turn was written."""
        number = self._order[place]
        talk = self.talks[number]
        text = talk.add(rollout, self.renderer)
        if not talk.converses:
            self._finish(number, rollout.ended, None)
        elif talk.cut:
            self._close(number, "length")
        else:
            assert talk.episode is not None, "it converses"
            self._ask(number, _Waiting("reply"), talk.episode.reply, text)

    def _ask(self, number: int, waiting: _Waiting, question: Callable[[Any], Any], told: Any) -> None:
        """Have a world's method called in a thread. It is a daemon: a world that hangs must not hold up the program's
        end."""
        self._waiting[number] = waiting

        def work() -> None:
            try:
                found: Any = question(told)
            except BaseException as error:  # for whoever waits
                found = error
            self._heard.put(_Heard(number, waiting.of, found))

        threading.Thread(target=work, daemon=True).start()

    def more(self, idle: bool) -> Sequence[Request] | None:
        """The turns that can be written by now (``More``). Raises what a world raised."""
        self._hear_all()
        while idle and not self._ready and self._waiting:
            try:
                self._hear(self._heard.get(timeout=MOMENT))
            except queue.Empty:
                self._tell(self._written - self._base, 0)
            self._hear_all()
        if not self._ready and len(self.done) == len(self.talks):
            return None
        ready, self._ready = self._ready, []
        self._order += ready
        return [self.talks[number].request() for number in ready]

    def _hear_all(self) -> None:
        while True:
            try:
                self._hear(self._heard.get_nowait())
            except queue.Empty:
                break
        for number, waiting in list(self._waiting.items()):
            if waiting.of == "reply" and self._late(number):
                self._close(number, "seconds")

    def _hear(self, heard: _Heard) -> None:
        waiting, talk = self._waiting.get(heard.number), self.talks[heard.number]
        if waiting is None or waiting.of != heard.of:
            return  # it was too late
        if isinstance(heard.found, BaseException):
            raise heard.found
        del self._waiting[heard.number]
        if heard.of == "score":
            self._finish(heard.number, waiting.ended, heard.found)
            return
        limits = talk.episode.limits if talk.episode is not None else None
        if heard.found and limits is not None and limits.turns and talk.num_turns >= limits.turns:
            self._close(heard.number, "turns")
        elif heard.found and self._late(heard.number):
            self._close(heard.number, "seconds")
        elif talk.hear(heard.found, self.renderer):
            self._ready.append(heard.number)
        else:
            self._close(heard.number, "length" if talk.cut else "stop")

    def _late(self, number: int) -> bool:
        episode = self.talks[number].episode
        most = episode.limits.seconds if episode is not None else 0.0
        return bool(most) and self.clock() - self._begun[number] > most

    def _close(self, number: int, ended: Ended) -> None:
        """An attempt is over but for what its world says that it earned."""
        talk = self.talks[number]
        assert talk.episode is not None, "only a conversation is closed so"
        self._ask(number, _Waiting("score", ended), talk.episode.score, talk.judged(self.standing))

    def _finish(self, number: int, ended: Ended, earned: Score | None) -> None:
        self.done[number] = self.talks[number].rollout(self.renderer, ended, earned)
        self._tell(self._written - self._base, 0)
        if self.finished is not None:
            self.finished(number, self.done[number])


def converse(
    sampler: Sampler,
    renderer: Renderer,
    attempts: Sequence[Attempted],
    sampling: Sampling,
    address: Address,
    progress: Progress | None = None,
    finished: Finished | None = None,
    *,
    clock: Now = time.monotonic,
    standing: Standing = NO_RUN,
) -> list[Rollout]:
    """One rollout for each attempt, in their order, with text; of a conversation with what its world says that it
    earned; ``standing`` is what that is told of the run. ``progress`` counts attempts that are over. Raises what a
    world raises, and UserError for a chat that cannot be rendered."""
    listeners = Listeners(renderer)

    def opened(attempt: Attempted) -> tuple[Message, ...]:
        episode = attempt.episode
        if episode is None or episode.stops:
            return attempt.problem.messages
        return tuple(episode.opening(attempt.problem.messages))

    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        openings = list(threads.map(opened, attempts))
    known: dict[str, tuple[int, ...]] = {}
    talks = []
    for (problem, sample, episode), opening in zip(attempts, openings, strict=True):
        own = opening == problem.messages
        prompt = known.get(problem.id) if own else renderer.prompt_ids(opening, problem.template)
        if prompt is None:
            prompt = known[problem.id] = prompt_of(renderer, problem)
        listener = listeners.of(episode) if episode is not None and episode.stops else None
        talks.append(OngoingAttempt(problem, sample, opening, prompt, sampling, episode, listener))
    return Conversations(talks, renderer, progress, finished, clock, standing).run(sampler, sampling, address)
