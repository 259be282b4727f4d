"""From settings to a run in progress: resolve the model, open everything, train."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

import upslope
from upslope.algo.check import check as check_recipe
from upslope.algo.codec import patched, to_dict
from upslope.algo.family import FAMILY, find
from upslope.algo.recipe import Recipe, diff, show
from upslope.errors import Stopped, UserError, nearest
from upslope.learn.scorer import require_scorable
from upslope.learn.settings import LearnSettings
from upslope.model.load import load, pick_device
from upslope.model.names import is_pocket
from upslope.model.pocket import build_model, build_tokenizer
from upslope.native.build import cache_folder
from upslope.plugins import load_object, names_a_file
from upslope.record import checkpoint
from upslope.record.folder import FolderRecorder
from upslope.record.load import load_model
from upslope.record.recorder import Recorder
from upslope.tasks.base import Task
from upslope.tasks.builtin import DEFAULT, FOR_DATA
from upslope.tasks.registry import open_task
from upslope.training.assemble import saved_in
from upslope.training.run import Run
from upslope.training.session import MakeSampler, run_to_end
from upslope.training.settings import DEFAULT_RECIPE, ReferenceSettings, RunSettings, TaskSettings
from upslope.training.stages import STAGES
from upslope.training.view import View
from upslope.versions import running

SMALL = 10_000_000
"""Trainable weights below which the default learning rate is the pocket model's."""
DEFAULT_LONGEST = 256
"""Tokens of an attempt where neither the settings nor the task say."""

MakeView = Callable[[], View]


def launch(settings: RunSettings, make_view: MakeView, *, resume: bool = False) -> Path:
    """Train as the settings say, names resolved to objects; returns the run's folder.

    ``resume`` continues from the newest complete checkpoint of the folder ``out/name``. Raises UserError for
    anything a user can mend (before minutes are spent on a start, where that can be known), ``Stopped`` after Ctrl-C.
    """
    recipe, task = resolve_recipe(settings.recipe), open_run_task(settings.task, settings.seed)
    folder = Path(settings.out) / settings.name if resume else free_folder(settings, task)
    recorder = FolderRecorder(folder, settings.save.keep)
    train_objects(settings, recipe, task, recorder, make_view, resume=resume)
    return folder


def train_objects(
    settings: RunSettings,
    recipe: Recipe,
    task: Task,
    recorder: Recorder,
    make_view: MakeView,
    *,
    model: tuple[Any, Any] | None = None,
    resume: bool = False,
    objects: Sequence[str] = (),
    make_sampler: MakeSampler | None = None,
) -> Run:
    """Train this recipe on this task: ``model`` (with its tokenizer), or the one that the settings name.

    ``objects`` are the keys of the settings that a Python object stands for, which no file can name. Raises as
    ``launch`` does.
    """
    pick_device(settings.device)
    settings = replace(with_limit(settings, task), name=recorder.name)
    check(settings, recipe, task)
    saved = recorder.newest() if resume else None
    if resume and saved is None:
        where = recorder.folder or "a run in memory"
        raise UserError(f"{where} holds no complete checkpoint to resume from; start it anew under another name")
    if saved is not None and not settings.learn.lora_rank:
        exact = torch.float64 if settings.learn.dtype == "float64" else torch.float32
        model = load(str(saved.folder), exact)
    elif model is None:
        model = resolve_model(settings, make_view)
    if (settings.learn.lora_rank or "model" in objects) and saved_in(model[0]):
        settings = replace(settings, model=saved_in(model[0]))  # this very checkpoint, whatever its run does later
    settings = with_rate(settings, num_parameters=num_trainable(model[0], settings.learn))
    document = to_document(settings, recipe, objects)
    return run_to_end(*model, task, recipe, settings, recorder, make_view(), document, saved, make_sampler)


def check(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    """Whatever would stop the run later and can be seen now: sampling, rows, rewards. Raises UserError."""
    check_recipe(recipe)
    check_length(settings, recipe)
    if settings.reference != ReferenceSettings() and not recipe.refers:
        raise UserError("reference.*: no slot of this recipe refers to a reference; set recipe.regulariser, or drop it")
    if recipe.acts:
        require_scorable(settings.sample.sampling())
        task.problems("train")
    if settings.eval.problems:
        task.problems("test")
    if recipe.acts or settings.eval.problems:
        task.check_rewards()


def check_length(settings: RunSettings, recipe: Recipe) -> None:
    """Raise UserError where a step has fewer problems than mini-batches, or the critic's warm-up outlasts the run."""
    reuse = recipe.reuse
    if reuse.minibatches > settings.problems:
        raise UserError(
            f"recipe.reuse.minibatches = {reuse.minibatches}, and a step has problems = {settings.problems}, which "
            "stay whole; raise the second or lower the first"
        )
    total = settings.steps * reuse.num_updates
    alone = recipe.asked("critic").warmup
    if 0 < total <= alone:
        raise UserError(
            f"recipe.critic.warmup = {alone} updates of the critic alone, and the run has {total} in all "
            f"({settings.steps} steps of {reuse.num_updates}): the policy would never learn; raise steps or lower it"
        )


def with_limit(settings: RunSettings, task: Task) -> RunSettings:
    """The longest attempt made explicit where it was left to us."""
    if settings.sample.max_tokens is not None:
        return settings
    longest = DEFAULT_LONGEST if task.max_tokens is None else task.max_tokens
    return replace(settings, sample=replace(settings.sample, max_tokens=longest))


def with_rate(settings: RunSettings, num_parameters: int) -> RunSettings:
    """The learning rate made explicit where it was left to us."""
    if settings.learn.lr is not None:
        return settings
    return replace(settings, learn=replace(settings.learn, lr=3e-4 if num_parameters < SMALL else 1e-5))


def num_trainable(model: Any, learn: LearnSettings) -> int:
    """How many weights will move, to the order of magnitude: an adapter's are few."""
    return 0 if learn.lora_rank else sum(p.numel() for p in model.parameters() if p.requires_grad)


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


def open_run_task(settings: TaskSettings, seed: int) -> Task:
    """The task the settings name; without a name the user's if there is data, else pocket."""
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "name"}
    return open_task(settings.name or (FOR_DATA if settings.data else DEFAULT), **given, seed=seed)


def free_folder(settings: RunSettings, task: Task) -> Path:
    """Where the run goes. Raises UserError if a name was given and something is there already."""
    out = Path(settings.out)
    if settings.name:
        if (out / settings.name / "journal.jsonl").exists():
            raise UserError(
                f"{out / settings.name} holds a run already; choose another --name, or continue it with "
                f"--resume {out / settings.name}"
            )
        return out / settings.name
    stem = f"{task.name}-{settings.recipe['name'].rpartition(':')[2]}-{settings.seed}"
    number = 1
    while (out / (name := stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return out / name


def to_document(settings: RunSettings, recipe: Recipe, objects: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved configuration as it stands in run.toml: nothing left to a default, paths from the root; and the
    versions it runs with.

    Every slot of the recipe is spelled out, but for a recipe of the user's own, whose file says it. What was given as
    an object of Python that nothing can name is listed under ``python``.
    """
    document = asdict(settings) | {"versions": running() | {"torch": torch.__version__}}  # with its build
    document["model"] = _absolute(settings.model)
    document["reference"]["model"] = _absolute(settings.reference.model) if settings.reference.model else ""
    table = document["task"]
    if names_a_file(table["name"]):
        table["name"] = _absolute(table["name"])
    table["data"], table["eval_data"] = _absolute(table["data"]), _absolute(table["eval_data"])
    table["rewards"] = [_absolute(reward) for reward in table["rewards"]]
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
        document["python"] = {"objects": unnamed}
    return _without_none(document)


def nearest_name(recipe: Recipe) -> str:
    """The member of the family from which this recipe differs in the fewest slots."""
    return min(FAMILY, key=lambda name: len(diff(FAMILY[name].recipe, recipe)))


def _absolute(text: str | None) -> str | None:
    """A path, or FILE.py:NAME, that exists, from the root; any other text as it is."""
    if text is None:
        return None
    path, colon, name = text.partition(":") if names_a_file(text) else (text, "", "")
    return f"{Path(path).resolve()}{colon}{name}" if Path(path).exists() else text


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _without_none(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for k, v in table.items()
        if v is not None
    }


def resolve_model(settings: RunSettings, make_view: MakeView) -> tuple[Any, Any]:
    """(model, tokenizer) of a directory, a hub id, a run folder (its newest checkpoint) or a stage of pocket."""
    name = settings.model
    if is_pocket(name):
        return _pocket(name.partition(":")[2] or "sft", settings, make_view)
    return load_model(name)


def _pocket(stage: str, wanted: RunSettings, make_view: MakeView) -> tuple[Any, Any]:
    """The pocket model after a stage, from the cache if everything it depends on is unchanged."""
    if stage == "blank":
        return build_model(wanted.seed), build_tokenizer()
    if stage not in STAGES:
        raise UserError(f"pocket has no stage {stage!r}{nearest(stage, [*STAGES, 'blank'])}")
    settings = replace(STAGES[stage], seed=wanted.seed, device=wanted.device, threads=wanted.threads)
    settings = replace(settings, out=str(cache_folder()), name=f"pocket-{stage}-{_fingerprint(settings)}")
    folder = Path(settings.out) / settings.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two runs that start together make it once
        saved = checkpoint.newest(folder / "checkpoints")
        if saved is None or saved.step < settings.steps:
            if saved is None and (folder / "journal.jsonl").exists():
                (folder / "journal.jsonl").unlink()  # killed before its first checkpoint
            try:
                launch(settings, make_view, resume=saved is not None)
            except Stopped as stopped:
                raise Stopped("repeat the same command: what was made of the pocket model is kept") from stopped
        saved = checkpoint.newest(folder / "checkpoints")
    assert saved is not None, "a stage that ends has written its checkpoint"
    return load(str(saved.folder))


def _fingerprint(settings: RunSettings) -> str:
    """A hash of everything a stage depends on: its settings and its start's, the task, the code, the libraries."""
    below = settings.model.partition(":")[2]
    parts = [
        json.dumps(asdict(replace(settings, out="", name="", threads=0)), sort_keys=True),
        open_run_task(settings.task, settings.seed).fingerprint(),
        _fingerprint(replace(STAGES[below], seed=settings.seed)) if below in STAGES else below,
        torch.__version__,
        transformers.__version__,
    ]
    parts += [path.read_text(encoding="utf-8") for path in code_of_a_start(Path(upslope.__file__).parent)]
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:12]


def code_of_a_start(package: Path) -> list[Path]:
    """The files whose change may change what a stage makes, rooms within rooms too."""
    rooms = ("native", "algo", "tasks", "model", "rollout", "learn", "record", "training")
    files = (path for room in rooms for path in sorted((package / room).rglob("*")))
    return [path for path in files if path.suffix in (".py", ".c", ".h")]
