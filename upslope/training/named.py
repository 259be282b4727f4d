"""From settings to the recipe and the task that they name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from upslope.algo.codec import patched
from upslope.algo.correction import TruncatedWeights, no_correction
from upslope.algo.family import find
from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.plugins import load_object, names_a_file
from upslope.tasks.base import Task
from upslope.tasks.builtin import DEFAULT, FOR_DATA
from upslope.tasks.registry import open_task
from upslope.tasks.text_alone import TextAlone
from upslope.training.settings import DEFAULT_RECIPE, RunSettings
from upslope.training.task_settings import TaskSettings


def resolve_recipe(recipe: dict[str, Any]) -> Recipe:
    """A recipe by name, or the user's own by ``FILE.py:NAME``, with a patch of slots.

    For example ``{"name": "grpo", "surrogate": {"low": 0.1}}``.
    """
    patch = {k: v for k, v in recipe.items() if k != "name"}
    name = str(recipe.get("name", DEFAULT_RECIPE))
    if not names_a_file(name):
        return patched(find(name).recipe, patch)
    own = load_object(name, "recipe")
    if not isinstance(own, Recipe):
        raise UserError(f"recipe {name!r} is a {type(own).__name__}, not a Recipe; patch one of upslope.algo.family")
    return patched(own, patch)


def with_correction(recipe: Recipe, settings: RunSettings) -> Recipe:
    """With weights from the sampler's to the learner's policy, where what it learns from may be stale and nothing in it
    says how likely the sampler was to write that; ``recipe.correction = "no_correction"``, said outright, leaves them
    out."""
    trusts = recipe.correction is no_correction and not recipe.asked("surrogate").against_sampler
    said = "correction" in settings.recipe
    stale = settings.cluster.staleness > 0 and recipe.acts
    return recipe.patch(correction=TruncatedWeights()) if stale and trusts and not said else recipe


def open_run_task(settings: TaskSettings, seed: int, *, whole: bool = False) -> Task:
    """The task the settings name; without a name the user's if there is data, none but the text if there is that, else
    pocket. ``whole``: nothing is learnt, so all of a file that is not divided is held out."""
    if settings.text_alone:
        require_nothing_else(settings)
        return TextAlone()
    if (settings.tools or settings.environment) and not (settings.name or settings.data):
        raise UserError("task.tools and task.environment need problems to use them on; give --data or --task")
    return open_task(**task_spec(settings, seed), whole=whole)


def task_spec(settings: TaskSettings, seed: int) -> dict[str, Any]:
    """What ``open_task`` is called with for a task that is more than text."""
    left = ("name", "text", "min_prompt", "max_prompt", "too_long")  # the last three need a tokenizer
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if not f.name.startswith(left)}
    return given | {"name": settings.name or (FOR_DATA if settings.data else DEFAULT), "seed": seed}


def require_nothing_else(settings: TaskSettings) -> None:
    """Raise UserError for a setting of problems and rewards beside text alone, which has none."""
    for f in fields(settings):
        if not f.name.startswith("text") and getattr(settings, f.name) != getattr(TaskSettings(), f.name):
            raise UserError(f"task.{f.name} is of no use to text alone; give --task or --data as well, or drop it")
