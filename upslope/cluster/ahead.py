"""Sampling that goes on while the learner learns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from upslope.algo.sample import Sample
from upslope.cluster.slots import Slots
from upslope.record.drawn import DrawnStep
from upslope.rollout.base import Progress
from upslope.training.collect import Collected, Collects
from upslope.training.drawn import collected_of, drawn_of

MOMENT = 0.1
"""Seconds between two looks: Ctrl-C is seen then."""


class _Over(Exception):
    """Nobody wants further steps."""


class Ahead:
    """Collects the steps one after another in a thread of its own, as far ahead of the learner as slots allow.

    Step t is begun once the update of step t - S - 1 is done, S the staleness, with the newest weights of that moment:
    version t - S or a later one. So a sample is at most S updates old when it is learnt from. The loop's order of the
    five lines stays; it finds attempts ready where it would have waited for them.

    A step's attempts are kept until the next one is asked for: until then a checkpoint may have to hold them.
    """

    def __init__(self, inner: Collects, staleness: int, per_step: int, last: int) -> None:
        """``last``: the number of the last step, after which nothing is begun."""
        self._inner, self._last = inner, last
        self._slots, self._per_step = Slots(staleness, per_step), per_step
        self._room = threading.Condition()
        self._made: dict[int, DrawnStep] = {}
        self._error: BaseException | None = None
        self._busy = self._held = False
        """Whether a step is being collected, and whether no other may begin."""
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
                self._made = {number: made for number, made in self._made.items() if number >= step}
                self._room.notify_all()
        made = self._waited_for(step, progress)
        self._state = made.state
        found = collected_of(made)
        return replace(found, told=found.told | age(found, step))

    def _waited_for(self, step: int, progress: Progress | None) -> DrawnStep:
        while True:
            with self._room:
                if step not in self._made and self._error is None:
                    self._room.wait(MOMENT)
                made, error = self._made.get(step), self._error
            if made is not None:
                return made
            if error is not None:
                raise error
            if progress is not None:
                progress(*self._so_far)

    def _go_on(self, sample: Sample, step: int) -> None:
        try:
            while step <= self._last:
                with self._room:
                    while self._slots.free < self._per_step or self._held:
                        self._require_wanted()
                        self._room.wait()
                    self._require_wanted()
                    self._slots.begin(self._per_step)
                    self._busy = True
                found = self._inner(sample, step, self._watch)
                with self._room:
                    self._made[step] = drawn_of(found, step, self._inner.state())
                    self._busy = False
                    self._room.notify_all()
                step += 1
        except _Over:
            pass
        except BaseException as error:  # the thread that waits raises it
            self._error = error
        finally:
            with self._room:
                self._busy = False
                self._room.notify_all()

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
            self._room.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def state(self) -> Mapping[str, Any]:
        """What the collector knew after the newest step that was handed out; what it knew after those ahead, they say
        themselves (``drawn``)."""
        return self._state

    def drawn(self, step: int, patient: Callable[[], bool]) -> Sequence[DrawnStep]:
        """See ``Collects.drawn``. While it waits no further step begins, so that this ends; where it does not wait,
        what is under way is left out, and a resumed run draws it with the weights it has then."""
        with self._room:
            self._held = True
            try:
                while self._busy and patient():
                    self._room.wait(MOMENT)
                made = dict(self._made)
            finally:
                self._held = False
                self._room.notify_all()
        # Those that a checkpoint gave, and that are not reached yet, are the inner one's.
        found = {given.step: given for given in self._inner.drawn(step, patient)} | made
        return [found[number] for number in sorted(found) if number >= step]

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
