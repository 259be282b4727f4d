"""From settings to a run in progress: resolve the model, open everything, train."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from upslope.algo.recipe import Recipe
from upslope.algo.sample import Documents
from upslope.errors import UserError
from upslope.learn.settings import LearnSettings
from upslope.model.chat_renderer import ChatRenderer
from upslope.model.load import load, pick_device
from upslope.model.names import is_new, is_pocket
from upslope.model.new import new_model, new_model_words, resolved_new
from upslope.model.pocket import build_tokenizer
from upslope.record import checkpoint
from upslope.record.claim import Taken, claimed, folder_in, is_begun
from upslope.record.folder import FolderRecorder
from upslope.record.load import load_model, load_model_words
from upslope.record.recorder import Recorder
from upslope.tasks.base import Task
from upslope.training.assemble import saved_in
from upslope.training.checks import check_length, check_run
from upslope.training.company import Companies, Company
from upslope.training.conveniences import notes_on
from upslope.training.corpora import opened_text
from upslope.training.document import to_document
from upslope.training.fitting import Reader, fit_rows
from upslope.training.length import with_steps, with_steps_of_text
from upslope.training.named import open_run_task, resolve_recipe, with_correction
from upslope.training.pipeline.made_of import IRRELEVANT, end_of, reads_of
from upslope.training.pocket_start import pocket_model
from upslope.training.prompt_lengths import limits_prompts, with_prompt_lengths
from upslope.training.resuming import made_with, notes_of, require_run, set_aside
from upslope.training.run import Run
from upslope.training.session import run_to_end
from upslope.training.settings import RunSettings
from upslope.training.tables import names, to_settings
from upslope.training.view import View

SMALL = 10_000_000
"""Trainable weights below which the default learning rate is the pocket model's."""
DEFAULT_LONGEST = 256
"""Tokens of an attempt where neither the settings nor the task say."""

MakeView = Callable[[], View]


def launch(
    settings: RunSettings,
    make_view: MakeView,
    *,
    resume: bool = False,
    since: int | None = None,
    company: Company | None = None,
) -> Path:
    """Train as the settings say, names resolved to objects; returns the run's folder.

    ``resume`` continues from the newest complete checkpoint of the folder ``out/name``, or from that of step ``since``.
    Raises UserError for anything a user can mend (before minutes are spent on a start, where that can be known),
    ``Stopped`` after Ctrl-C.
    """
    run = launched(settings, make_view, resume=resume, since=since, company=company)
    assert run.folder is not None
    return run.folder


def launched(
    settings: RunSettings,
    make_view: MakeView,
    *,
    resume: bool = False,
    since: int | None = None,
    company: Company | None = None,
) -> Run:
    """The same, for whoever wants to know more of the run than its folder."""
    recipe, task = resolve_recipe(settings.recipe), open_run_task(settings.task, settings.seed)
    task = with_limited_prompts(task, settings, resume=resume)
    settings = with_steps(settings, recipe, task)
    check_run(settings, recipe, task)
    with run_folder(settings, task, resume=resume) as folder:
        if since is not None:
            set_aside(folder, since)
        recorder = FolderRecorder(folder, settings.save.keep)
        return train_objects(settings, recipe, task, recorder, make_view, resume=resume, company=company)


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
    company: Company | None = None,
    kind: type[Run] = Run,
) -> Run:
    """Train this recipe on this task: ``model`` (with its tokenizer), or the one that the settings name; the run is of
    this ``kind``.

    ``objects`` are the keys of the settings that a Python object stands for, which no file can name. Whoever calls has
    asked ``check_run``, before a folder was made. Raises as ``launch`` does.
    """
    pick_device(settings.device)
    recipe = with_correction(recipe, settings)
    settings = replace(settings, name=recorder.name, new=resolved_new(settings.model, settings.new))
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
    view = make_view()
    text = opened_text(settings.task, *model, view.message)
    reads = Reader.of(*model)
    settings = with_steps_of_text(settings, recipe, text, reads.max_positions)
    settings = with_max_tokens(settings, task, reads.max_positions)
    blocks = text is not None or (isinstance(recipe.sample, Documents) and recipe.sample.block > 0)
    fitted = fit_rows(task, recipe, settings, reads, blocks=blocks)
    settings = with_steps(settings, recipe, fitted.task, left=True)
    check_length(settings, recipe)
    if (settings.learn.lora_rank or "model" in objects) and saved_in(model[0]):
        settings = replace(settings, model=saved_in(model[0]))  # this very checkpoint, whatever its run does later
    settings = with_rate(settings, num_parameters=num_trainable(model[0], settings.learn))
    for note in notes_on(task, recipe, settings):
        view.message(note)
    document = to_document(settings, recipe, objects, task.name)
    of_text = None if text is None else text.fingerprint
    now = made_with(settings, task, model[0] if settings.learn.lora_rank else None, of_text)
    notes = []
    if recorder.folder is not None and was is not None:
        notes = broken + notes_of(recorder.folder, saved, was, document, now)
    return run_to_end(
        *model,
        fitted,
        recipe,
        settings,
        recorder,
        view,
        document,
        saved,
        company,
        resume=resume,
        made_with=now,
        notes=notes,
        text=text,
        kind=kind,
    )


def with_limited_prompts(task: Task, settings: RunSettings, given: Any = None, *, resume: bool = False) -> Task:
    """The task with the problems whose prompts are as long as they may be, by the tokenizer of ``given`` (a model and
    its tokenizer), of the run that goes on, or of the model that the settings name. Nothing else of it is loaded."""
    if not limits_prompts(settings.task):
        return task
    own = Path(settings.out) / settings.name
    if given is not None:
        words = (given[1], given[0].generation_config)
    elif resume and checkpoint.steps(own / "checkpoints"):
        words = load_model_words(str(own))
    else:
        words = resolve_words(settings)
    return with_prompt_lengths(task, settings.task, ChatRenderer.of(*words))


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


def with_max_tokens(settings: RunSettings, task: Task, max_positions: int) -> RunSettings:
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
    fresh = num_parameters < SMALL or is_new(settings.model)
    return replace(settings, learn=replace(settings.learn, lr=3e-4 if fresh else 1e-5))


def num_trainable(model: Any, learn: LearnSettings) -> int:
    """How many weights will move, to the order of magnitude: an adapter's are few."""
    return 0 if learn.lora_rank else sum(p.numel() for p in model.parameters() if p.requires_grad)


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
    """(model, tokenizer) of a directory, a hub id, a run folder (its newest checkpoint), a stage of pocket, or made
    anew."""
    name = settings.model
    resolved_new(name, settings.new)
    if is_new(name):
        return new_model(name, settings.new, settings.seed)
    if is_pocket(name):
        return pocket_model(name.partition(":")[2], settings, TrainStage(), make_view)
    return load_model(name)


def resolve_words(settings: RunSettings) -> tuple[Any, Any]:
    """(tokenizer, generation config or None) of the same model, of which nothing else is loaded or made."""
    name = settings.model
    if is_new(name):
        return new_model_words(name, settings.new)
    resolved_new(name, settings.new)
    return (build_tokenizer(), None) if is_pocket(name) else load_model_words(name)


class TrainStage:
    """A stage of a pipeline that trains: an ordinary run, in an ordinary run folder. A ``StageKind``."""

    takes_model = leaves_model = True

    def __init__(self, companies: Companies | None = None) -> None:
        """``companies``: who else works on a run, by its settings; None: nobody."""
        self._companies = companies or (lambda settings: contextlib.nullcontext())

    def reads(self, key: str) -> bool:
        return True  # ``settings`` says what there is

    def matters(self, key: str) -> bool:
        return not names(IRRELEVANT, key)

    def settings(self, table: Mapping[str, Any], folder: Path) -> RunSettings:
        return to_settings({**table, "out": str(folder.parent), "name": folder.name})

    def check(self, settings: RunSettings) -> None:
        check_run(settings, resolve_recipe(settings.recipe), open_run_task(settings.task, settings.seed))

    def document(self, settings: RunSettings) -> dict[str, Any]:
        return to_document(settings, resolve_recipe(settings.recipe))

    def made_with(self, settings: RunSettings) -> dict[str, str]:
        return reads_of(settings, open_run_task(settings.task, settings.seed))

    def begun(self, folder: Path) -> bool:
        return is_begun(folder)

    def left(self, folder: Path) -> str:
        return end_of(folder)

    def perform(self, settings: RunSettings, make_view: MakeView, *, resume: bool) -> int | None:
        with self._companies(settings.cluster) as company:
            asked = launched(settings, make_view, resume=resume, company=company).signals.asked
        gc.collect()  # the model and its optimizer, before the next ones are loaded
        return asked
