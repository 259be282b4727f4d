"""What every learner of a run does at certain steps, beside the updates."""

from __future__ import annotations

from upslope.algo.recipe import Recipe
from upslope.learn.learner import Learner
from upslope.learn.probe import Probe
from upslope.model.reference import Reference
from upslope.training.settings import RunSettings
from upslope.types import Batch


def probe_of(learner: Learner, recipe: Recipe, settings: RunSettings, step: int, batch: Batch) -> Probe | None:
    """A look at the step before its first update, if it is one of those that are measured."""
    every = settings.learn.measure_every
    return Probe(learner, recipe, batch) if every and step % every == 0 and recipe.acts else None


def renew_reference(learner: Learner, settings: RunSettings, step: int) -> bool:
    """Make the present policy the reference, where that is due at this step; whether it was."""
    every = settings.reference.every
    due = bool(every and step and step % every == 0)
    if due:
        learner.scorer.reference = Reference.of(learner.policy)
    return due
