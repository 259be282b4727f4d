"""The collector of a run, made of its settings."""

from __future__ import annotations

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Documents
from upslope.model.policy import Policy
from upslope.rollout.base import Sampler
from upslope.tasks.base import Task
from upslope.training.collect import Collector
from upslope.training.corpora import Text, blocks_of
from upslope.training.settings import RunSettings


def collector(
    settings: RunSettings, recipe: Recipe, task: Task, sampler: Sampler, policy: Policy, text: Text | None = None
) -> Collector:
    """Whoever collects the run's steps: attempts at the task's problems, or what is imitated, ``text`` among it. Raises
    UserError for blocks that the model is too short for, more of them than there are, or of documents that there are
    not."""
    own = task.documents() if isinstance(recipe.sample, Documents) and text is None else ()
    blocks = blocks_of(text, own, recipe.sample, policy, settings.seed)
    if blocks is not None and isinstance(recipe.sample, Documents):
        blocks.require(settings.problems)
    return Collector(
        task,
        sampler,
        policy.renderer,
        settings.sample.sampling(),
        settings.seed,
        settings.problems,
        max_positions=policy.max_positions,
        blocks=blocks,
        order=settings.sample.order,
        cuts=settings.task.too_long == "truncate",
        steps=settings.steps,
    )
