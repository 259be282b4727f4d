"""Stop strings, order, patience, lengths of prompts: refused where they would change nothing."""

from __future__ import annotations

from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts, Demonstrations, Documents
from upslope.errors import UserError
from upslope.learn.settings import LearnSettings
from upslope.tasks.base import Task
from upslope.tasks.right import NO_ACCURACY
from upslope.tasks.text_alone import TextAlone
from upslope.training.prompt_lengths import lengths_told, limits_prompts
from upslope.training.settings import RunSettings


def check_conveniences(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    """Raise UserError for a setting that this run would take and ignore."""
    _check_stop(settings, recipe, task)
    _check_order(settings, recipe)
    _check_weighted(settings, recipe)
    if limits_prompts(settings.task) and isinstance(recipe.sample, Documents) and not settings.eval.problems:
        raise UserError("task.min_prompt_tokens and max_prompt_tokens: this run reads text, which has no prompts")
    if settings.eval.patience and not settings.eval.every:
        raise UserError(
            f"eval.patience = {settings.eval.patience} counts evaluations on the way, and eval.every = 0 makes none; "
            "set eval.every as well"
        )
    if settings.eval.patience and not measures_something(settings, task):
        raise UserError(
            f"eval.patience = {settings.eval.patience}: nothing is evaluated that could get better; set eval.problems, "
            "or eval.text_tokens for text"
        )


def _check_stop(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    if not settings.sample.stop:
        return
    attempts = task.has_reward and settings.eval.problems and not isinstance(task, TextAlone)
    if not (recipe.acts or attempts):
        raise UserError("sample.stop ends attempts, and this run makes none; leave it out")
    if settings.cluster.engine == "vllm":
        raise UserError(
            "sample.stop is not for cluster.engine = 'vllm', which is asked for tokens and reads no text; leave one out"
        )


def _check_order(settings: RunSettings, recipe: Recipe) -> None:
    if settings.sample.order == "shuffled":
        return
    sample = recipe.sample
    blocks = isinstance(sample, Documents) and (settings.task.text or sample.block)
    reasons = {
        "recipe.sample.kind = learnable draws problems by what is known of them": isinstance(sample, Learnable),
        "task.also mixes several data sets, each in an order of its own": bool(settings.task.also),
        "text is read in blocks": bool(blocks) or (not isinstance(sample, Attempts) and bool(settings.task.text)),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"sample.order = 'file': {reason}; leave one of them out")


def _check_weighted(settings: RunSettings, recipe: Recipe) -> None:
    if settings.task.on_timeout == "mask" and isinstance(recipe.sample, Learnable) and recipe.sample.weighted:
        raise UserError(
            "task.on_timeout = 'mask' divides by how many attempts are left, so weights cannot undo the draw; set "
            "recipe.sample.weighted=false, or on_timeout to 'stop'"
        )


def measures_something(settings: RunSettings, task: Task) -> bool:
    """Whether evaluations look at anything: problems, or held-out text."""
    text = bool(settings.task.text and settings.eval.text_tokens and settings.task.text_held_out)
    return text or (bool(settings.eval.problems) and not isinstance(task, TextAlone))


def notes_on(task: Task, recipe: Recipe, settings: RunSettings) -> list[str]:
    """What whoever watches a run should know before it begins: that there is no accuracy, how many problems are left,
    that the learning rate only rises."""
    told = [NO_ACCURACY] if not task.says_right and (recipe.acts or settings.eval.problems) else []
    return told + lengths_told(task) + _note_on_rows(task, recipe) + _note_on_warmup(settings, recipe)


def _note_on_rows(task: Task, recipe: Recipe) -> list[str]:
    """How many rows have nothing to imitate, where others have."""
    if not isinstance(recipe.sample, Demonstrations):
        return []
    try:
        problems = task.problems("train")
    except UserError:  # demonstrations may be all that it has
        return []
    bare = sum(problem.demonstration is None for problem in problems)
    if not 0 < bare < len(problems):
        return []
    return [f"{bare:,} of {len(problems):,} training rows have nothing to imitate, and are left out"]


def _note_on_warmup(settings: RunSettings, recipe: Recipe) -> list[str]:
    """Told where somebody set a decay, or a warm-up, that this run is too short for; not where all is as it was."""
    learn, updates = settings.learn, settings.steps * recipe.reuse.num_updates
    asked = learn.decay != LearnSettings.decay or learn.warmup != LearnSettings.warmup
    enough = learn.warmup + (learn.decay != "constant")  # a decay begins behind the last update of the warm-up
    if not asked or not 0 < updates < enough or "curvature" in recipe.needs:
        return []
    decay = "" if learn.decay == "constant" else f", and learn.decay = {learn.decay!r} never begins"
    return [
        f"learn.warmup = {learn.warmup:,} updates, and the run has {updates:,}: the learning rate only rises, to "
        f"{updates / learn.warmup:.0%} of learn.lr{decay}; raise steps, or lower learn.warmup"
    ]
