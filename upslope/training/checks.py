"""What would stop a run later and can be seen before it begins."""

from __future__ import annotations

from upslope.algo.check import check as check_recipe
from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe
from upslope.algo.sample import Attempts
from upslope.errors import UserError
from upslope.learn.scorer import require_scorable
from upslope.tasks.base import Task
from upslope.training.evaluate import column_of
from upslope.training.known import KnownProblems
from upslope.training.settings import MOST_ATTEMPTS, ReferenceSettings, RunSettings


def check_run(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    """Whatever would stop the run later and can be seen now: sampling, rows, rewards. Raises UserError."""
    check_recipe(recipe)
    check_length(settings, recipe)
    check_numbers(settings, recipe)
    if settings.reference != ReferenceSettings() and not recipe.refers:
        raise UserError("reference.*: no slot of this recipe refers to a reference; set recipe.regulariser, or drop it")
    if recipe.acts:
        require_scorable(settings.sample.sampling())
        problems = task.problems("train")
        if isinstance(recipe.sample, Learnable):
            KnownProblems(problems, recipe.sample, settings.seed).require(settings.problems)
    if settings.eval.problems:
        held_out = task.problems("test")
        if settings.eval.by:
            column_of(held_out[: settings.eval.problems], settings.eval.by)
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


def check_numbers(settings: RunSettings, recipe: Recipe) -> None:
    """Raise UserError for more attempts in one turn or evaluation than any machine makes."""
    sample = recipe.sample
    if isinstance(sample, Attempts) and settings.problems * sample.group_size > MOST_ATTEMPTS:
        raise UserError(
            f"problems = {settings.problems} x recipe.sample.group_size = {sample.group_size} attempts a step are more "
            f"than {MOST_ATTEMPTS:,}; lower one of them"
        )
    require_few(settings)


def require_few(settings: RunSettings) -> None:
    """Raise UserError for more attempts in one evaluation than any machine makes."""
    if settings.eval.samples > MOST_ATTEMPTS:
        raise UserError(f"eval.samples = {settings.eval.samples} attempts a problem are more than {MOST_ATTEMPTS:,}")


def require_several(settings: RunSettings) -> None:
    """Raise UserError where several attempts would be one and the same."""
    if settings.eval.samples > 1 and not settings.eval.temperature:
        raise UserError(
            f"eval.samples = {settings.eval.samples} at temperature 0 would be the same attempt every time; raise the "
            "temperature, or take one sample"
        )


def check_evaluation(settings: RunSettings) -> None:
    """Raise UserError for an evaluation of no problem, of too many attempts, or of one attempt several times."""
    if not settings.eval.problems:
        raise UserError("eval.problems = 0: an evaluation needs at least one held-out problem")
    require_several(settings)
    require_few(settings)
