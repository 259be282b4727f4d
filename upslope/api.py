"""What ``import upslope`` offers: training, evaluating, sampling and scoring, with names, paths or objects."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from upslope.algo.recipe import Recipe
from upslope.errors import UserError
from upslope.inspect.terminal import TerminalView
from upslope.model.load import load_tokenizer
from upslope.model.names import is_pocket
from upslope.model.policy import Policy, tokenizer_of
from upslope.record.folder import FolderRecorder
from upslope.record.recorder import MemoryRecorder, Recorder
from upslope.rollout.address import Address
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task, scores_of
from upslope.tasks.complete import complete
from upslope.training.evaluate import Evaluation
from upslope.training.run import Run
from upslope.training.session import MakeSampler
from upslope.training.settings import RunSettings
from upslope.training.speaking import evaluate_on, speaking
from upslope.training.start import nearest_name, open_run_task, resolve_recipe, train_objects
from upslope.training.tables import to_settings
from upslope.training.view import NullView, View
from upslope.types import Message, Problem, Rollout, Sampling, Score

Model = Any
"""``pocket``, a hub id, a directory, a run folder; a transformers model with its tokenizer, (model, tokenizer); or a
model alone, if it was trained, evaluated or sampled from before, or loaded from a directory that has its tokenizer."""


def train(
    model: Model = "pocket",
    *,
    task: Task | str | None = None,
    recipe: Recipe | str | None = None,
    steps: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool | View = True,
    sampler: MakeSampler | None = None,
    **settings: Any,
) -> Run:
    """Train; the run that is returned has ``model``, ``tokenizer``, ``rows()``, ``rollouts(step)``, ``save(folder)``.

    Records stay in memory, or go to ``folder``, from which ``resume=True`` continues with the same arguments. Whatever
    else docs/settings.md lists is a keyword, a group of settings a dictionary: ``seed=1, problems=32,
    learn={"lr": 1e-4}, eval={"problems": 64}``. A model that is handed in is trained in place. ``sampler`` is called
    with the policy and returns whoever writes the attempts (``upslope.rollout.base.Sampler``); None: this process.

    Raises UserError for what can be mended, before anything is trained where that can be known; Stopped after Ctrl-C.
    """
    wanted, chosen, opened, objects = _resolved(model, task, recipe, steps, settings)
    recorder: Recorder = MemoryRecorder(wanted.name or f"{opened.name}-{wanted.recipe['name']}-{wanted.seed}")
    if folder is not None:
        recorder = FolderRecorder(_free(Path(folder), resume=resume), wanted.save.keep)
    given = None if isinstance(model, (str, Path)) else with_tokenizer(model)
    if sampler is not None:
        objects.append("sampler")
    run = train_objects(
        wanted,
        chosen,
        opened,
        recorder,
        lambda: _view(progress),
        model=given,
        resume=resume,
        objects=objects,
        make_sampler=sampler,
    )
    run.policy.release()
    return run


def _resolved(
    model: Model, task: Task | str | None, recipe: Recipe | str | None, steps: int | None, settings: Mapping[str, Any]
) -> tuple[RunSettings, Recipe, Task, list[str]]:
    """Settings, recipe, task, and which of model and task are objects that no file can name."""
    named: dict[str, Any] = {}
    for key, value in settings.items():
        named[key] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if "out" in named:
        raise UserError("out is no setting here; give folder=, the run's own")
    if steps is not None:
        named["steps"] = steps
    objects = []
    if isinstance(model, (str, Path)):
        named["model"] = str(model)
    else:
        objects.append("model")
    if isinstance(recipe, Recipe):
        named["recipe"] = nearest_name(recipe)
    elif recipe is not None:
        named["recipe"] = recipe
    if isinstance(task, str):
        named["task"] = {"name": task}
    wanted = to_settings(named)
    chosen = recipe if isinstance(recipe, Recipe) else resolve_recipe(wanted.recipe)
    if task is not None and not isinstance(task, str):
        objects.append("task")
        return wanted, chosen, complete(task), objects
    if task is None and not (isinstance(model, (str, Path)) and is_pocket(str(model))):
        raise UserError("which task? give task=upslope.tasks.gsm8k(FOLDER), or any object with problems() and score()")
    return wanted, chosen, open_run_task(wanted.task, wanted.seed), objects


def _free(folder: Path, *, resume: bool) -> Path:
    if not resume and (folder / "journal.jsonl").exists():
        raise UserError(f"{folder} holds a run already; choose another folder, or continue it with resume=True")
    return folder


def _view(progress: bool | View) -> View:
    if isinstance(progress, bool):
        return TerminalView(Console()) if progress else NullView()
    return progress


def evaluate(
    model: Model,
    task: Task | str,
    *,
    samples: int = 0,
    problems: int = 512,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
) -> Evaluation:
    """Accuracy on the task's held-out problems: greedy, and with ``samples`` attempts a problem pass@k, each with its
    95 % interval. An attempt is right if its reward is at least 1. Raises UserError."""
    settings = to_settings(
        {
            "seed": seed,
            "device": device,
            "learn": {"dtype": dtype},
            "sample": {} if max_tokens is None else {"max_tokens": max_tokens},
            "eval": {"samples": samples, "problems": problems, "temperature": temperature},
            "task": {"name": task} if isinstance(task, str) else {},
        }
    )
    opened = open_run_task(settings.task, seed) if isinstance(task, str) else complete(task)
    with _speaking(model, settings) as policy:
        return evaluate_on(opened, settings, policy)


def sample(
    model: Model,
    prompts: Sequence[str | Sequence[Message] | Problem],
    *,
    samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
) -> list[list[Rollout]]:
    """``samples`` attempts at every prompt (a question, a chat, or a task's problem), with tokens, log-probabilities
    and text; without reward. Equal arguments give equal attempts."""
    problems = [_problem(prompt, index) for index, prompt in enumerate(prompts)]
    settings = to_settings({"seed": seed, "device": device, "learn": {"dtype": dtype}})
    with _speaking(model, settings) as policy:
        address = Address(seed, "sample", 0)
        drawn_from = sampling or Sampling()
        return sample_groups(LocalSampler(policy), policy.renderer, problems, samples, drawn_from, address)


def _problem(prompt: str | Sequence[Message] | Problem, index: int) -> Problem:
    if isinstance(prompt, Problem):
        return prompt
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    return Problem(f"prompt/{index}", messages)


def score(task: Task | str, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
    """The task's score of each response to the problem at the same place. Raises UserError unless there are as many of
    both, and every reward is a number."""
    opened = open_run_task(to_settings({"task": {"name": task}}).task, 0) if isinstance(task, str) else complete(task)
    if len(problems) != len(responses):
        raise UserError(f"{len(problems)} problems and {len(responses)} responses; each response answers one problem")
    found = scores_of(opened, list(problems), list(responses))
    for problem, given in zip(problems, found, strict=True):
        if not math.isfinite(given.reward):
            raise UserError(f"the reward of a response to problem {problem.id} is {given.reward}")
    return found


def _speaking(model: Model, settings: RunSettings) -> contextlib.AbstractContextManager[Policy]:
    if isinstance(model, (str, Path)):
        return speaking(replace(settings, model=str(model)), NullView)
    return speaking(settings, NullView, with_tokenizer(model))


def with_tokenizer(model: Model) -> tuple[Any, Any]:
    """(model, tokenizer). Raises UserError where nothing says which tokenizer a model has."""
    if isinstance(model, tuple):
        if len(model) != 2:
            raise UserError(f"a tuple of {len(model)} is no model; give (model, tokenizer)")
        return model
    if not hasattr(model, "parameters"):
        raise UserError(f"a {type(model).__name__} is no model; give a name, a path, or (model, tokenizer)")
    found = tokenizer_of(model) or load_tokenizer(str(getattr(model, "name_or_path", "") or ""))
    if found is None:
        raise UserError("nothing says which tokenizer this model has; give (model, tokenizer)")
    return model, found
