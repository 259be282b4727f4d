"""From settings to a run in progress: resolve the model, open everything, train."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

import upslope
from upslope.algo.codec import patched
from upslope.algo.family import find
from upslope.algo.recipe import Recipe
from upslope.errors import Stopped, UserError, nearest
from upslope.learn.settings import LearnSettings
from upslope.model.load import load, pick_device
from upslope.model.names import is_pocket
from upslope.model.pocket import build_model, build_tokenizer
from upslope.model.policy import max_positions
from upslope.native.places import cache_folder
from upslope.plugins import load_object, names_a_file
from upslope.record import checkpoint
from upslope.record.claim import Taken, claimed, folder_in
from upslope.record.folder import FolderRecorder
from upslope.record.load import load_model
from upslope.record.recorder import Recorder
from upslope.tasks.base import Task
from upslope.tasks.builtin import DEFAULT, FOR_DATA
from upslope.tasks.registry import open_task
from upslope.training.assemble import saved_in
from upslope.training.checks import check_run
from upslope.training.document import to_document
from upslope.training.length import with_steps
from upslope.training.resuming import made_with, notes_of, require_run, set_aside
from upslope.training.run import Run
from upslope.training.session import MakeSampler, run_to_end
from upslope.training.settings import DEFAULT_RECIPE, RunSettings, TaskSettings
from upslope.training.stages import STAGES
from upslope.training.view import View

SMALL = 10_000_000
"""Trainable weights below which the default learning rate is the pocket model's."""
DEFAULT_LONGEST = 256
"""Tokens of an attempt where neither the settings nor the task say."""

MakeView = Callable[[], View]


def launch(settings: RunSettings, make_view: MakeView, *, resume: bool = False, since: int | None = None) -> Path:
    """Train as the settings say, names resolved to objects; returns the run's folder.

    ``resume`` continues from the newest complete checkpoint of the folder ``out/name``, or from that of step ``since``.
    Raises UserError for anything a user can mend (before minutes are spent on a start, where that can be known),
    ``Stopped`` after Ctrl-C.
    """
    recipe, task = resolve_recipe(settings.recipe), open_run_task(settings.task, settings.seed)
    settings = with_steps(settings, recipe, task)
    check_run(settings, recipe, task)
    with run_folder(settings, task, resume=resume) as folder:
        if since is not None:
            set_aside(folder, since)
        train_objects(settings, recipe, task, FolderRecorder(folder, settings.save.keep), make_view, resume=resume)
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

    ``objects`` are the keys of the settings that a Python object stands for, which no file can name. Whoever calls has
    asked ``check_run``, before a folder was made. Raises as ``launch`` does.
    """
    pick_device(settings.device)
    settings = replace(settings, name=recorder.name)
    was = require_run(recorder.folder) if resume and recorder.folder is not None else None
    saved = recorder.newest() if resume else None
    broken = []
    if resume and recorder.folder is not None:
        broken = checkpoint.passed_over(recorder.folder / "checkpoints", saved)
    if saved is None and broken:
        raise UserError(
            f"{recorder.folder} holds no complete checkpoint to resume from; start it anew in another folder "
            f"({'; '.join(broken)})"
        )
    if saved is not None and not settings.learn.lora_rank:
        exact = torch.float64 if settings.learn.dtype == "float64" else torch.float32
        model = carried_on(model, load(str(saved.folder), exact), saved.folder)
    elif model is None:
        model = resolve_model(settings, make_view)
    settings = with_limit(settings, task, max_positions(model[0]))
    if (settings.learn.lora_rank or "model" in objects) and saved_in(model[0]):
        settings = replace(settings, model=saved_in(model[0]))  # this very checkpoint, whatever its run does later
    settings = with_rate(settings, num_parameters=num_trainable(model[0], settings.learn))
    document = to_document(settings, recipe, objects)
    now = made_with(settings, task, model[0] if settings.learn.lora_rank else None)
    notes = []
    if recorder.folder is not None and was is not None:
        notes = broken + notes_of(recorder.folder, saved, was, document, now)
    return run_to_end(
        *model,
        task,
        recipe,
        settings,
        recorder,
        make_view(),
        document,
        saved,
        make_sampler,
        resume=resume,
        made_with=now,
        notes=notes,
    )


def carried_on(given: tuple[Any, Any] | None, saved: tuple[Any, Any], folder: Path) -> tuple[Any, Any]:
    """A checkpoint's model, in the very object that was handed in, where one was."""
    if given is None:
        return saved
    model, tokenizer = given
    weights = saved[0].state_dict()
    if {n: w.shape for n, w in model.state_dict().items()} != {n: w.shape for n, w in weights.items()}:
        raise UserError(f"the model that was given is not the one of {folder}: its weights have other names or shapes")
    model.to(saved[0].dtype).load_state_dict(weights)
    return model, tokenizer


def with_limit(settings: RunSettings, task: Task, max_positions: int) -> RunSettings:
    """The longest attempt made explicit where it was left to us: what the task suggests, else ``DEFAULT_LONGEST``, or
    half of a model's positions where those are few, so that there is room for prompts."""
    if settings.sample.max_tokens is not None:
        return settings
    longest = min(DEFAULT_LONGEST, max(1, max_positions // 2)) if task.max_tokens is None else task.max_tokens
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


@contextlib.contextmanager
def run_folder(settings: RunSettings, task: Task, *, resume: bool) -> Iterator[Path]:
    """Where the run goes, held until it ends. Without a name it takes the next number that is free, also of runs that
    begin at the same moment. Raises UserError as ``claimed`` does."""
    out = Path(settings.out)
    if settings.name or resume:
        with claimed(folder_in(out, settings.name), resume=resume) as folder:
            yield folder
        return
    stem = f"{task.name}-{settings.recipe['name'].rpartition(':')[2]}-{settings.seed}"
    with contextlib.ExitStack() as held:
        for number in itertools.count(1):
            folder = out / (stem if number == 1 else f"{stem}-{number}")
            with contextlib.suppress(Taken):
                held.enter_context(claimed(folder))
                break
        yield folder


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
            if saved is None:
                shutil.rmtree(folder, ignore_errors=True)  # a name that only we give, in a cache that is ours
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
