"""How long a run is, where its settings say it in passes over the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Demonstrations, Documents
from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.training.corpora import Text, block_length
from upslope.training.settings import RunSettings


def with_steps(settings: RunSettings, recipe: Recipe, task: Task, *, left: bool = False) -> RunSettings:
    """``epochs`` made into ``steps``: ceil(epochs x steps a pass has), and a pass has as many as it has whole shares of
    a step (``source.Shuffled``); in the order of the file, and of several data sets mixed by size, none is left out, so
    it is ceil(epochs x demonstrations / share). ``left``: all rows that the task has fit; until that is so, epochs stay
    epochs where some may be dropped. Raises UserError where there is less than one share, and for data sets with
    weights."""
    if not settings.epochs:
        return settings
    if isinstance(recipe.sample, Documents) and (settings.task.text or recipe.sample.block):
        if settings.task.text:
            return settings  # the text says how many tokens it has once it is opened (``with_steps_of_text``)
        raise UserError("epochs and recipe.sample.block: a pass over a task's own documents in blocks; give steps")
    if isinstance(recipe.sample, Learnable):
        raise UserError("epochs and recipe.sample.kind = learnable, which makes no passes over the data; give steps")
    mixed = bool(settings.task.also) and isinstance(recipe.sample, Demonstrations)
    if mixed and settings.task.weights:
        raise UserError("epochs and task.weights: by weights no data set is read once a pass; give steps")
    if settings.task.too_long != "stop" and not left:
        return settings
    kind, found, share = _data(settings, recipe, task)
    if not 0 < share <= len(found):
        raise UserError(
            f"epochs = {settings.epochs:g}: a step takes {share} {kind} of {len(found)}, so no pass over them has a "
            "whole step; set problems to that or less, or give steps"
        )
    in_order = settings.sample.order == "file"
    steps = math.ceil(settings.epochs * (len(found) / share if mixed or in_order else len(found) // share))
    return replace(settings, steps=steps, epochs=0.0)


def with_steps_of_text(settings: RunSettings, recipe: Recipe, text: Text | None, max_positions: int) -> RunSettings:
    """The same for a run that reads text in blocks: ceil(epochs x tokens / (problems x tokens of a block)), of the
    tokens that are not held out."""
    if not settings.epochs or text is None:
        return settings
    if settings.task.text_weights:
        raise UserError("epochs and task.text_weights: by weights no source is read once a pass; give steps")
    tokens = sum(int(corpus.length_D[~corpus.held_out_D].sum()) for corpus in text.corpora)
    steps = math.ceil(settings.epochs * tokens / (settings.problems * block_length(recipe.sample, max_positions)))
    return replace(settings, steps=steps, epochs=0.0)


def _data(settings: RunSettings, recipe: Recipe, task: Task) -> tuple[str, Sequence[Any], int]:
    """What a pass goes over, and how many of it a step takes."""
    sample = recipe.sample
    if isinstance(sample, Documents):
        return "documents", task.documents(), settings.problems
    if isinstance(sample, Demonstrations):
        return "demonstrations", task.demonstrations(), settings.problems - round(sample.replay * settings.problems)
    return "training problems", task.problems("train"), settings.problems
