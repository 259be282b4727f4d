"""A learner that follows the first one: the same loop, with groups that are handed to it."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import ray

from upslope.algo.outcome import Outcome
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Sample
from upslope.cluster.gpus import given_gpu
from upslope.cluster.life import Life, SignOfLife
from upslope.cluster.machines import own_machine
from upslope.cluster.ranks import meet
from upslope.cluster.together import builder, stand_together
from upslope.learn.learner import Learner
from upslope.learn.probe import Probe
from upslope.model.load import pick_device
from upslope.record.recorder import MemoryRecorder
from upslope.rollout.base import Progress
from upslope.training.assemble import assemble
from upslope.training.collect import Collected
from upslope.training.loop import train
from upslope.training.measuring import is_measured, renew_reference
from upslope.training.session import process_state
from upslope.training.settings import RunSettings
from upslope.types import Batch, Group

Handed = queue.SimpleQueue[tuple[int | None, Sequence[Group]]]
"""Steps and groups on their way from the thread that is told of them to the one that learns; no step: the first learner
gathers what a checkpoint keeps."""


class Nothing:
    """A sampler's place where nobody samples."""

    def load(self, weights: Any, version: int) -> None:
        pass


class Following:
    """What the loop is run with on every learner but the first: steps and groups come from there, and nothing is
    recorded."""

    def __init__(self, learner: Learner, recipe: Recipe, settings: RunSettings, handed: Handed, life: Life) -> None:
        self.learner, self.recipe, self.seed = learner, recipe, settings.seed
        self.sampler = Nothing()
        self.collect = self._collect
        self._settings, self._handed, self._life = settings, handed, life
        self._groups: Sequence[Group] = ()
        learner.watch = lambda num_rows, total: life.beat()

    def steps(self) -> Iterator[int]:
        """The numbers of the steps that the first learner does."""
        while True:
            given, self._groups = self._handed.get()
            if given is None:
                self.learner.kept()
                continue
            step = given
            renew_reference(self.learner, self._settings, step)
            yield step

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self._life.at(name)

    def sampled(self, num_tokens: int, num_rows: int) -> None:
        pass

    def _collect(self, sample: Sample, step: int, progress: Progress) -> Collected:
        return Collected([], list(self._groups))

    @contextlib.contextmanager
    def measured(self, step: int, batch: Batch) -> Iterator[None]:
        """Look at the step from both ends as the first learner does: it needs all of them."""
        wanted = is_measured(self._settings, self.recipe, step)
        probe = Probe(self.learner, self.recipe, batch) if wanted else None
        yield
        if probe is not None:
            probe.row()

    def record(self, step: int, collected: Collected, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        pass


class Follower:
    """The process of such a learner."""

    def __init__(self, opened: tuple[Any, Any], recipe: Recipe, settings: RunSettings) -> None:
        self._given = (*opened, recipe, settings)
        self._life = Life(given_gpu(), own_machine())
        self._handed: Handed = queue.SimpleQueue()

    @ray.method(concurrency_group="watch")
    def sign(self) -> SignOfLife:
        return self._life.sign()

    @ray.method(concurrency_group="watch")
    def hand(self, step: int | None, groups: Sequence[Group]) -> None:
        """A step's groups; None: the first learner gathers what a checkpoint keeps."""
        self._handed.put((step, groups))

    def follow(self, rank: int, size: int, meet_at: str) -> None:
        """Be a learner until this process is ended. ``meet_at``: where all of them meet, ``HOST:PORT``."""
        model, tokenizer, recipe, settings = self._given
        del self._given  # the model is the policy from now on
        device = pick_device(settings.device)
        with process_state(settings, device):
            ranks = meet(rank, size, meet_at, device, self._life)
            build = builder(ranks, settings.cluster)
            learner = assemble(model.to(device), tokenizer, recipe, settings, MemoryRecorder(), None, build)
            stand_together(learner, ranks)
            train(Following(learner, recipe, settings, self._handed, self._life))
