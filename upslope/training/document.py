"""A run's settings as ``run.toml`` holds them: resolved, with nothing left to a default, enough to repeat the run."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from upslope.algo.codec import to_dict
from upslope.algo.family import FAMILY
from upslope.algo.recipe import Recipe, diff, show
from upslope.model.names import BEST, NEW, config_of_new, folder_and_best
from upslope.plugins import names_a_file
from upslope.training.settings import RunSettings
from upslope.versions import running


def to_document(
    settings: RunSettings, recipe: Recipe, objects: Sequence[str] = (), task_name: str = ""
) -> dict[str, Any]:
    """The resolved configuration as it stands in run.toml: nothing left to a default, paths from the root; and the
    versions it runs with.

    Every slot of the recipe is spelled out, but for a recipe of the user's own, whose file says it. What was given as
    an object of Python that nothing can name is listed under ``python``, with the task's own name.
    """
    document = asdict(settings) | {"versions": running() | {"torch": torch.__version__}}  # with its build
    config = config_of_new(settings.model)
    document["model"] = f"{NEW}{_absolute(config)}" if config else _absolute_model(settings.model)
    document["new"]["tokenizer"] = _absolute(settings.new.tokenizer) if settings.new.tokenizer else ""
    document["reference"]["model"] = _absolute_model(settings.reference.model) if settings.reference.model else ""
    table = document["task"]
    if names_a_file(table["name"]):
        table["name"] = _absolute(table["name"])
    table["data"], table["eval_data"] = _absolute(table["data"]), _absolute(table["eval_data"])
    table["also"] = [_absolute(data) for data in table["also"]]
    table["rewards"] = [_absolute(reward) for reward in table["rewards"]]
    table["tools"] = [_absolute(tool) if names_a_file(tool) else tool for tool in table["tools"]]
    table["environment"] = _absolute(table["environment"]) if table["environment"] else ""
    table["text"] = [_absolute_pattern(source) for source in table["text"]]
    name = settings.recipe["name"]
    unnamed = list(objects)
    if names_a_file(name):
        document["recipe"] = settings.recipe | {"name": _absolute(name)}
    else:
        try:
            document["recipe"] = {"name": name} | to_dict(recipe)
        except ValueError:
            document["recipe"] = {"name": name} | {f.name: show(getattr(recipe, f.name)) for f in fields(recipe)}
            unnamed.append("recipe")
    if unnamed:
        document["python"] = {"objects": unnamed} | ({"task": task_name} if "task" in unnamed else {})
    return _without_none(document)


def nearest_name(recipe: Recipe) -> str:
    """The member of the family from which this recipe differs in the fewest slots."""
    return min(FAMILY, key=lambda name: len(diff(FAMILY[name].recipe, recipe)))


def _absolute(text: str | None) -> str | None:
    """A path, or FILE.py:NAME, that exists, from the root; any other text as it is."""
    if text is None:
        return None
    path, colon, name = text.rpartition(":") if names_a_file(text) else (text, "", "")
    return f"{Path(path).resolve()}{colon}{name}" if Path(path).exists() else text


def _absolute_pattern(text: str) -> str:
    """The same for a source of text, which may be a pattern."""
    if glob.has_magic(text) and not Path(text).exists():
        return str(Path(text).expanduser().absolute())
    return str(_absolute(text))


def _absolute_model(name: str) -> str:
    """A directory, or a run folder with or without @best, from the root; any other name as it is."""
    folder, best = folder_and_best(name)
    return f"{_absolute(str(folder))}{BEST if best else ''}"


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _without_none(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for k, v in table.items()
        if v is not None
    }
