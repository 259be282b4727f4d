"""What ``import upslope`` offers: training, evaluating, sampling and scoring, with names, paths or objects."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from upslope.algo.family import Branch
from upslope.algo.recipe import Recipe
from upslope.cluster.launch import company_of
from upslope.errors import UserError
from upslope.inspect.notebook import ShownRun
from upslope.inspect.terminal import TerminalView
from upslope.model.load import load_tokenizer
from upslope.model.names import is_pocket
from upslope.model.policy import Policy, tokenizer_of
from upslope.model.renderer import prompt_of
from upslope.record.claim import claimed
from upslope.record.folder import FolderRecorder
from upslope.record.recorder import MemoryRecorder, Recorder
from upslope.rollout.address import Address
from upslope.rollout.groups import sample_groups
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task, scores_of
from upslope.tasks.complete import complete
from upslope.training.checks import check_evaluation, check_run, require_told
from upslope.training.company import MakeSampler, Nobody
from upslope.training.document import nearest_name
from upslope.training.evaluate import Evaluation
from upslope.training.length import with_steps
from upslope.training.named import open_run_task, resolve_recipe
from upslope.training.settings import RunSettings
from upslope.training.speaking import evaluate_on, speaking
from upslope.training.start import train_objects, with_limited_prompts
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
    recipe: Recipe | Branch | Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    text: str | Path | Sequence[str | Path] = (),
    folder: str | Path | None = None,
    resume: bool = False,
    progress: bool | View = True,
    sampler: MakeSampler | None = None,
    **settings: Any,
) -> ShownRun:
    """Train; the run that is returned has ``model``, ``tokenizer``, ``rows()``, ``rollouts(step)``, ``save(folder)``,
    ``plot()`` and ``why()``.

    ``text``: files, folders, patterns or data sets of the hub that ``up.PRETRAIN`` reads, and ``up.SFT`` replays; with
    ``text_weights``, ``text_column`` and ``text_held_out`` as in docs/settings.md. Without a task it is all there is.

    Records stay in memory, or go to ``folder``, from which ``resume=True`` continues with the same arguments. Whatever
    else docs/settings.md lists is a keyword, a group of settings a dictionary: ``seed=1, problems=32,
    learn={"lr": 1e-4}, eval={"problems": 64}``. A model that is handed in is trained in place. ``sampler`` is called
    with the policy and returns whoever writes the attempts (``upslope.rollout.base.Sampler``); None: this process.

    Raises UserError for what can be mended, before anything is trained where that can be known; Stopped after Ctrl-C.
    """
    _require_arguments(folder, progress, sampler, resume=resume)
    wanted, chosen, opened, objects = _resolved(model, task, recipe, steps, text, settings)
    recorder: Recorder = MemoryRecorder(wanted.name or f"{opened.name}-{wanted.recipe['name']}-{wanted.seed}")
    if folder is not None:
        recorder = FolderRecorder(Path(folder), wanted.save.keep)
    given = None if isinstance(model, (str, Path)) else with_tokenizer(model)
    if sampler is not None:
        objects.append("sampler")
    _require_named(wanted, objects)
    opened = with_limited_prompts(opened, wanted, given, resume=resume)
    wanted = with_steps(wanted, chosen, opened)
    check_run(wanted, chosen, opened)
    held = contextlib.nullcontext() if folder is None else claimed(Path(folder), resume=resume)
    with held, company_of(wanted.cluster) as company:
        run = train_objects(
            wanted,
            chosen,
            opened,
            recorder,
            lambda: _view(progress),
            model=given,
            resume=resume,
            objects=objects,
            company=company or Nobody(sampler),
            kind=ShownRun,
        )
    run.policy.release()
    return cast(ShownRun, run)


def _resolved(
    model: Model,
    task: Task | str | None,
    recipe: Recipe | Branch | Mapping[str, Any] | str | None,
    steps: int | None,
    text: str | Path | Sequence[str | Path],
    settings: Mapping[str, Any],
) -> tuple[RunSettings, Recipe, Task, list[str]]:
    """Settings, recipe, task, and which of model and task are objects that no file can name."""
    named: dict[str, Any] = {}
    for key, value in settings.items():
        named[key] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    of_text: dict[str, Any] = {
        key: named.pop(key) for key in ("text_weights", "text_column", "text_held_out") if key in named
    }
    sources = [text] if isinstance(text, (str, Path)) else list(text)
    of_text |= {"text": list(map(str, sources))} if sources else {}
    if "out" in named:
        raise UserError("out is no setting here; give folder=, the run's own")
    if steps is not None:
        named["steps"] = steps
    objects = []
    given = _one_recipe(recipe)
    if isinstance(model, (str, Path)):
        named["model"] = str(model)
    else:
        objects.append("model")
    if isinstance(given, Recipe):
        named["recipe"] = nearest_name(given)
    elif given is not None:
        named["recipe"] = given
    if isinstance(task, str) or of_text:
        named["task"] = ({"name": task} if isinstance(task, str) else {}) | of_text
    wanted = to_settings(named)
    chosen = given if isinstance(given, Recipe) else resolve_recipe(wanted.recipe)
    if task is not None and not isinstance(task, str):
        objects.append("task")
        return wanted, chosen, complete(task), objects
    if task is None and not sources and not (isinstance(model, (str, Path)) and is_pocket(str(model))):
        raise UserError(
            "which task? give task=upslope.tasks.gsm8k(FOLDER), any object with problems() and score(), or text=[FILE]"
        )
    return wanted, chosen, open_run_task(wanted.task, wanted.seed), objects


def _one_recipe(recipe: Any) -> Recipe | str | Mapping[str, Any] | None:
    """A recipe, its name, or a table of name and patches. Raises UserError for anything else."""
    found = recipe.recipe if isinstance(recipe, Branch) else recipe  # what FAMILY holds
    if found is not None and not isinstance(found, (str, Recipe, Mapping)):
        raise UserError(
            f"recipe is a {type(found).__name__}; give a name, one of the family (upslope.GRPO), or a patch"
        )
    return found


def _require_arguments(folder: object, progress: object, sampler: object, *, resume: bool) -> None:
    """Raise UserError for an argument of ``train`` that is of no use, before anything begins."""
    if resume and folder is None:
        raise UserError("resume=True continues the run of a folder; give folder= as well")
    if folder is not None and Path(str(folder)).is_file():
        raise UserError(f"folder={str(folder)!r} is a file; give a folder, which need not be there yet")
    if not isinstance(progress, bool) and not all(hasattr(progress, name) for name in ("start", "step", "close")):
        raise UserError(f"progress is a {type(progress).__name__}; give True, False or an upslope.training.view.View")
    if sampler is not None and not callable(sampler):
        raise UserError(f"sampler is a {type(sampler).__name__}; give a function from the policy to a sampler")


def _require_named(wanted: RunSettings, objects: Sequence[str]) -> None:
    """Raise UserError for objects that another process would have to have as well."""
    cluster = wanted.cluster
    if cluster.used and "sampler" in objects:
        raise UserError("sampler= and cluster= both say who writes the attempts; give one of them")
    if cluster.rewards and "task" in objects:
        raise UserError(
            f"cluster.rewards = {cluster.rewards}: other processes open the task by its name, and this one is an "
            "object of Python; put it in a file and give task='FILE.py:NAME'"
        )


def _view(progress: bool | View) -> View:
    if isinstance(progress, bool):
        return TerminalView() if progress else NullView()
    return progress


def evaluate(
    model: Model,
    task: Task | str,
    *,
    samples: int = 0,
    problems: int = 512,
    temperature: float = 1.0,
    by: str = "",
    max_tokens: int | None = None,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
) -> Evaluation:
    """Accuracy on the task's held-out problems: greedy, and with ``samples`` attempts a problem pass@k, each with its
    95 % interval; ``by`` names a column of the problems, for whose values accuracy is told apart. The task
    says what is right (``right`` of ``upslope.tasks.rows``; else a reward of 1). ``dtype`` and ``device`` are for
    models that are named; one that is handed in computes as it is. Raises UserError."""
    if problems < 1:
        raise UserError(f"problems = {problems}: an evaluation needs at least one held-out problem")
    settings = to_settings(
        {
            "seed": seed,
            "device": device,
            "learn": {"dtype": dtype},
            "sample": {} if max_tokens is None else {"max_tokens": max_tokens},
            "eval": {"samples": samples, "problems": problems, "temperature": temperature, "by": by},
            "task": {"name": task} if isinstance(task, str) else {},
        }
    )
    check_evaluation(settings)
    opened = open_run_task(settings.task, seed) if isinstance(task, str) else complete(task)
    require_told(settings, opened)
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
    and text; without reward. Equal arguments give equal attempts. Without ``sampling`` an attempt may have 256 tokens,
    or as many as the model has positions left. ``dtype`` and ``device`` as in ``evaluate``. Raises UserError."""
    if isinstance(prompts, (str, Mapping)) or any(isinstance(p, Mapping) for p in prompts):
        raise UserError("prompts is a list; for one question or one chat give [it]")
    problems = [_problem(prompt, index) for index, prompt in enumerate(prompts)]
    settings = to_settings({"seed": seed, "device": device, "learn": {"dtype": dtype}})
    with _speaking(model, settings) as policy:
        address = Address(seed, "sample", 0)
        drawn_from = sampling or _roomy(policy, problems)
        return sample_groups(LocalSampler(policy), policy.renderer, problems, samples, drawn_from, address)


def _roomy(policy: Policy, problems: Sequence[Problem]) -> Sampling:
    """The default distribution, with as many tokens as the longest prompt leaves."""
    longest = max((len(prompt_of(policy.renderer, p)) for p in problems), default=0)
    return Sampling(max_tokens=max(1, min(Sampling().max_tokens, policy.max_positions - longest)))


def _problem(prompt: str | Sequence[Message] | Problem, index: int) -> Problem:
    if isinstance(prompt, Problem):
        return prompt
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    return Problem(f"prompt/{index}", messages, plain=isinstance(prompt, str))


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
    if (settings.learn.dtype, settings.device) != ("auto", "auto"):
        raise UserError("dtype and device are for models that are named; a model that is handed in computes as it is")
    return speaking(settings, NullView, with_tokenizer(model))


def with_tokenizer(model: Model) -> tuple[Any, Any]:
    """(model, tokenizer). Raises UserError where nothing says which tokenizer a model has."""
    if isinstance(model, tuple):
        if len(model) != 2:
            raise UserError(f"a tuple of {len(model)} is no model; give (model, tokenizer)")
        if not hasattr(model[0], "parameters") or not hasattr(model[1], "decode"):
            kinds = ", ".join(type(part).__name__ for part in model)
            raise UserError(f"({kinds}) is no (model, tokenizer); give a transformers model first, then its tokenizer")
        return model
    if not hasattr(model, "parameters"):
        raise UserError(f"a {type(model).__name__} is no model; give a name, a path, or (model, tokenizer)")
    found = tokenizer_of(model) or load_tokenizer(str(getattr(model, "name_or_path", "") or ""))
    if found is None:
        raise UserError("nothing says which tokenizer this model has; give (model, tokenizer)")
    return model, found
