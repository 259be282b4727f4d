"""Sampling that goes on while the learner learns."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any

from upslope.algo.sample import Sample
from upslope.cluster.slots import Slots
from upslope.rollout.base import Progress
from upslope.training.collect import Collected, Collects

MOMENT = 0.1
"""Seconds between two looks: Ctrl-C is seen then."""


class _Over(Exception):
    """Nobody wants further steps."""


@dataclass(frozen=True)
class Made:
    """A step's attempts, with what the collector knew when it had them."""

    collected: Collected
    state: Mapping[str, Any]


class Ahead:
    """Collects the steps one after another in a thread of its own, as far ahead of the learner as slots allow.

    Step t is begun once the update of step t - S - 1 is done, S the staleness, with the newest weights of that moment:
    version t - S or a later one. So a sample is at most S updates old when it is learnt from. The loop's order of the
    five lines stays; it finds attempts ready where it would have waited for them.
    """

    def __init__(self, inner: Collects, staleness: int, per_step: int, last: int) -> None:
        """``last``: the number of the last step, after which nothing is begun."""
        self._inner, self._last = inner, last
        self._slots, self._per_step = Slots(staleness, per_step), per_step
        self._room = threading.Condition()
        self._made: SimpleQueue[Made | BaseException] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._so_far = (0, 0)
        self._left = False
        self._state: Mapping[str, Any] = inner.state()
        self.blocks, self.overlaps = inner.blocks, False

    def __call__(self, sample: Sample, step: int, progress: Progress | None = None) -> Collected:
        """The attempts of a step. Raises what collecting them raised, once it is this step's turn."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._go_on, args=(sample, step), name="ahead", daemon=True)
            self._thread.start()
        else:
            with self._room:
                self._slots.learnt(self._per_step)
                self._room.notify()
        while True:
            try:
                made = self._made.get(timeout=MOMENT)
                break
            except Empty:
                if progress is not None:
                    progress(*self._so_far)
        if isinstance(made, BaseException):
            raise made
        self._state = made.state
        return replace(made.collected, told=made.collected.told | age(made.collected, step))

    def _go_on(self, sample: Sample, step: int) -> None:
        try:
            while step <= self._last:
                with self._room:
                    while self._slots.free < self._per_step:
                        self._require_wanted()
                        self._room.wait()
                    self._require_wanted()
                    self._slots.begin(self._per_step)
                collected = self._inner(sample, step, self._watch)
                self._made.put(Made(collected, self._inner.state()))
                step += 1
        except _Over:
            pass
        except BaseException as error:  # the thread that waits raises it
            self._made.put(error)

    def _watch(self, num_tokens: int, num_rows: int) -> None:
        self._require_wanted()
        self._so_far = (num_tokens, num_rows)

    def _require_wanted(self) -> None:
        if self._left:
            raise _Over

    def leave(self) -> None:
        """Begin nothing more, and drop what is under way."""
        self._left = True
        with self._room:
            self._room.notify()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def state(self) -> Mapping[str, Any]:
        """What the collector knew after the newest step that was handed out; of those ahead a resumed run knows
        nothing, and collects them anew."""
        return self._state

    def load(self, sample: Sample, state: Mapping[str, Any]) -> None:
        self._inner.load(sample, state)
        self._state = self._inner.state()


def age(collected: Collected, step: int) -> dict[str, float]:
    """``age_mean`` and ``age_max``: how many steps lie between the weights that wrote a token and the step that
    learns from it, over the tokens that the policy chose."""
    num: dict[int, int] = {}
    for rollout in (r for group in collected.attempted for r in group.rollouts):
        versions = rollout.versions or (rollout.version,) * len(rollout.response)
        for version, chosen in zip(versions, rollout.mask, strict=True):
            if chosen:
                num[step - version] = num.get(step - version, 0) + 1
    total = sum(num.values())
    if not total:
        return {}
    return {"age_mean": sum(old * n for old, n in num.items()) / total, "age_max": float(max(num))}
