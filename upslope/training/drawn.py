"""What a checkpoint holds of steps that nobody had learnt from: a resumed run learns from these attempts, and makes no
others in their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from upslope.algo.sample import Sample
from upslope.record.checkpoint import Checkpoint
from upslope.record.drawn import DrawnStep
from upslope.rollout.base import Progress
from upslope.tasks.base import Task
from upslope.training.collect import Collected, Collects


def drawn_of(found: Collected, step: int, state: Mapping[str, Any]) -> DrawnStep:
    """A step's attempts as a checkpoint keeps them."""
    return DrawnStep(step, tuple(found.attempted), tuple(found.kept), found.told, state)


def collected_of(made: DrawnStep) -> Collected:
    """The same as the loop wants them."""
    return Collected(list(made.attempted), list(made.kept), dict(made.told))


class AlreadyDrawn:
    """Hands out the steps that are there, one after the other, and lets ``inner`` collect those that follow."""

    def __init__(self, inner: Collects, drawn: Sequence[DrawnStep]) -> None:
        self._inner = inner
        self._drawn = {made.step: made for made in drawn}
        self._newest: DrawnStep | None = None
        """The last one that was handed out, until ``inner`` goes on from there."""
        self._state = inner.state()
        self.blocks, self.overlaps = inner.blocks, False

    def __call__(self, sample: Sample, step: int, progress: Progress | None = None) -> Collected:
        self._drawn = {number: made for number, made in self._drawn.items() if number >= step}
        if step in self._drawn:
            made = self._newest = self._drawn[step]
            self._state = made.state
            return collected_of(made)
        if self._newest is not None:
            self._inner.load(sample, self._newest.state)
            self._newest = None
        found = self._inner(sample, step, progress)
        self._state = self._inner.state()
        return found

    def state(self) -> Mapping[str, Any]:
        return self._state

    def load(self, sample: Sample, state: Mapping[str, Any]) -> None:
        self._inner.load(sample, state)
        self._state, self._newest = self._inner.state(), None

    def drawn(self, step: int, patient: Callable[[], bool]) -> Sequence[DrawnStep]:
        return [made for number, made in sorted(self._drawn.items()) if number >= step]


def with_drawn(inner: Collects, saved: Checkpoint, task: Task, staleness: int, say: Callable[[str], None]) -> Collects:
    """``inner``, going on with what the checkpoint holds of the steps after it, as far as nothing there is older than
    ``staleness`` updates when it is learnt from. ``say`` is told of what is sampled anew."""
    if not saved.drew_ahead:
        return inner
    try:
        drawn = saved.drawn({problem.id: problem for problem in task.problems("train")})
    except KeyError as error:
        say(
            f"{saved.folder} holds attempts at problem {error.args[0]}, which the task does not have any more; what "
            "was sampled ahead is sampled anew"
        )
        return inner
    for place, made in enumerate(drawn):
        if made.oldest is not None and made.step - made.oldest > staleness:
            say(
                f"{saved.folder} holds attempts for step {made.step} that are older than cluster.staleness = "
                f"{staleness} allows; they are sampled anew, and so is what follows"
            )
            drawn = drawn[:place]
            break
    return AlreadyDrawn(inner, drawn) if drawn else inner
