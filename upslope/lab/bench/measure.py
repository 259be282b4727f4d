"""One step of the loop, timed: the loop's own pieces in the loop's own order, on work of an exact size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from upslope.algo.objective import Objective
from upslope.algo.recipe import Recipe
from upslope.lab.bench.clock import Clock
from upslope.lab.bench.shape import Shape
from upslope.learn.learner import Learner
from upslope.learn.prepare import passes
from upslope.rollout.address import Address
from upslope.rollout.base import Sampler
from upslope.rollout.groups import sample_groups
from upslope.tasks.base import Task
from upslope.training.collect import score
from upslope.types import Group, Problem, Score

PHASES = ("sample", "score", "prepare", "gradient", "optimizer", "publish", "other")
"""``publish`` rounds the masters into the weights that compute and hands these to the sampler; ``other`` is what is
left, and in a recipe with curvature everything that measures before it moves."""


@dataclass(frozen=True)
class Work:
    """All that a step needs. ``learner.sampling`` makes every attempt exactly ``shape.tokens`` long."""

    shape: Shape
    task: Task
    problems: Sequence[Problem]
    """P of them."""
    recipe: Recipe
    sampler: Sampler
    learner: Learner


@dataclass(frozen=True)
class Timed:
    """One step's seconds and tokens."""

    seconds: float
    by_phase: dict[str, float]
    """Every one of PHASES; they add up to ``seconds``."""
    response_tokens: int
    """Sampled, and learnt from: N x L."""
    learnt_tokens: int
    """The tokens of every distinct prompt once, and all response tokens; for each pass over the batch again."""
    passes: int
    """Over the batch (``recipe.reuse.epochs``)."""

    @property
    def learning(self) -> float:
        """Seconds from scored attempts to their gradient, or (``other``) to whatever else moves the weights."""
        return sum(self.by_phase[phase] for phase in ("prepare", "gradient", "other"))


def timed_step(work: Work, step: int) -> Timed:
    """Sample, score, prepare, update, publish; see ``upslope.training.loop``. ``step`` addresses the random draws."""
    shape, learner, sampler = work.shape, work.learner, work.sampler
    clock, objective = Clock(learner.policy.device), Objective(work.recipe)
    optimizer = learner.optimizer
    inner = ((learner, "gradient", "gradient"), (learner, "step", "optimizer"), (learner, "settle", "optimizer"))
    start = time.perf_counter()
    with clock.watching(*inner, (optimizer, "publish", "publish")), clock.phase("other"):
        with clock.phase("sample"):
            address = Address(0, "bench", step)
            attempts = sample_groups(
                sampler, learner.policy.renderer, work.problems, shape.samples, learner.scorer.sampling, address
            )
        with clock.phase("score"):
            groups = score(work.task, learner.policy.renderer, work.problems, attempts)
        groups = [with_gradient(group) for group in groups]
        with clock.phase("prepare"):
            batch = learner.prepare(work.recipe, groups)
        for minibatch in passes(batch, work.recipe, Address(0, "bench-reuse", step)):
            work.recipe.update(learner, objective, minibatch)
        with clock.phase("publish"):
            sampler.load(learner.weights(), version=step + 1)
    seconds = time.perf_counter() - start
    by_phase = {name: clock.seconds.get(name, 0.0) for name in PHASES}
    by_phase["other"] += seconds - sum(by_phase.values())
    rollouts = [r for group in groups for r in group.rollouts]
    response_tokens = sum(len(r.response) for r in rollouts)
    prompt_tokens = sum(map(len, {r.prompt for r in rollouts}))
    epochs = work.recipe.reuse.epochs
    return Timed(seconds, by_phase, response_tokens, epochs * (prompt_tokens + response_tokens), epochs)


def with_gradient(group: Group) -> Group:
    """The group with rewards that differ, and as if every attempt had ended by itself: no baseline and no filter then
    spares the learner any of the work.

    Sample s earns 1/4, 1 more if s is odd, and s hundredths.
    """
    rewards = [0.25 + r.sample % 2 + 0.01 * r.sample for r in group.rollouts]
    pairs = zip(group.rollouts, rewards, strict=True)
    return replace(group, rollouts=tuple(replace(r, score=Score(reward), ended="stop") for r, reward in pairs))
