"""What every learner of a run does at certain steps, beside the updates."""

from __future__ import annotations

from upslope.algo.recipe import Recipe
from upslope.learn.learner import Learner
from upslope.model.reference import Reference
from upslope.training.settings import RunSettings


def is_measured(settings: RunSettings, recipe: Recipe, step: int) -> bool:
    """Whether a ``Probe`` looks at the step from both ends."""
    every = settings.learn.measure_every
    return bool(every and step % every == 0 and recipe.acts)


def renew_reference(learner: Learner, settings: RunSettings, step: int) -> bool:
    """Make the present policy the reference, where that is due at this step; whether it was."""
    every = settings.reference.every
    due = bool(every and step and step % every == 0)
    if due:
        learner.scorer.reference = Reference.of(learner.policy)
    return due
