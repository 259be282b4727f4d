"""What would stop a run later and can be seen before it begins."""

from __future__ import annotations

from upslope.algo.aggregate import prompt_mean, token_mean
from upslope.algo.check import check as check_recipe
from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe, show
from upslope.algo.sample import Attempts, Demonstrations, Documents
from upslope.errors import UserError
from upslope.learn.scorer import require_scorable
from upslope.model.new import resolved_new
from upslope.plugins import is_own
from upslope.record.trackers.known import require_trackers
from upslope.tasks.base import Task
from upslope.tasks.endings import require_endings
from upslope.tasks.right import require_right
from upslope.tasks.text_alone import NO_PROBLEMS, TextAlone
from upslope.text.documents import find_sources
from upslope.training.conveniences import check_conveniences, measures_something
from upslope.training.corpora import reads_text
from upslope.training.evaluate import column_of
from upslope.training.held_out import held_out_problems
from upslope.training.known import KnownProblems
from upslope.training.settings import MOST_ATTEMPTS, ReferenceSettings, RunSettings


def check_run(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    """Whatever would stop the run later and can be seen now: sampling, rows, rewards. Raises UserError."""
    check_recipe(recipe)
    resolved_new(settings.model, settings.new)
    require_trackers(settings.track)
    check_text(settings, recipe, task)
    check_length(settings, recipe)
    check_numbers(settings, recipe)
    check_cluster(settings, recipe)
    if settings.reference != ReferenceSettings() and not recipe.refers:
        raise UserError("reference.*: no slot of this recipe refers to a reference; set recipe.regulariser, or drop it")
    if recipe.acts:
        require_scorable(settings.sample.sampling())
        problems = task.problems("train")
        if isinstance(recipe.sample, Learnable):
            require_right(task, "recipe.sample.kind = learnable")
            KnownProblems(problems, recipe.sample, settings.seed).require(settings.problems)
    check_shown(recipe, task)
    check_measured(settings, task)
    held_out = held_out_problems(settings, task)
    if held_out and settings.eval.by:
        column_of(held_out, settings.eval.by)
    if recipe.acts or (settings.eval.problems and task.has_reward):
        task.check_rewards()
        task.check_columns()
    require_told(settings, task)
    check_conveniences(settings, recipe, task)


def require_told(settings: RunSettings, task: Task) -> None:
    """Raise UserError where an evaluation is to tell shares of right attempts and nothing says what is right."""
    if settings.eval.problems and not isinstance(task, TextAlone):
        if settings.eval.samples:
            require_right(task, f"pass@k (eval.samples = {settings.eval.samples})")
        if settings.eval.by:
            require_right(task, f"accuracy by column (eval.by = {settings.eval.by!r})")


def check_cluster(settings: RunSettings, recipe: Recipe) -> None:
    """Raise UserError for processes that would have nothing to do, or could not do what is theirs."""
    cluster = settings.cluster
    if cluster.engine == "vllm" and (not recipe.acts or settings.learn.lora_rank):
        what = "a recipe that makes no attempts" if not recipe.acts else "learn.lora_rank"
        raise UserError(f"cluster.engine = 'vllm' is not for {what}; leave it out")
    if not recipe.acts:
        for name in ("samplers", "rewards", "staleness"):
            if getattr(cluster, name):
                raise UserError(
                    f"cluster.{name} = {getattr(cluster, name)}: recipe {settings.recipe['name']} makes no attempts "
                    "that could be written or scored elsewhere; leave it out"
                )
    if cluster.rewards and (settings.task.tools or settings.task.environment):
        raise UserError(
            f"cluster.rewards = {cluster.rewards}: attempts with tools or an environment are judged where their world "
            "is, in the first process; leave it out"
        )
    elsewhere = cluster.rewards or settings.task.reward_workers or settings.task.reward_timeout
    if cluster.staleness and settings.task.rewards and not elsewhere:
        raise UserError(
            f"cluster.staleness = {cluster.staleness}: attempts are scored while the learner learns, so rewards of "
            "your own need a process of their own; set cluster.rewards=1 or task.reward_workers=1"
        )


def check_measured(settings: RunSettings, task: Task) -> None:
    """Raise UserError for settings of evaluations that would measure nothing."""
    if isinstance(task, TextAlone) and settings.eval.samples:
        raise UserError(f"eval.samples = {settings.eval.samples}: text alone has no problems to attempt; leave it out")
    if settings.save.best and not measures_something(settings, task):
        raise UserError(
            "save.best keeps the checkpoint that did best at evaluations, and nothing is evaluated; set eval.problems, "
            "or eval.text_tokens for text"
        )


def check_text(settings: RunSettings, recipe: Recipe, task: Task) -> None:
    """Raise UserError where text alone is to be attempted or imitated, and where blocks of text, or of documents, would
    not be what their settings say."""
    sample, text = recipe.sample, bool(settings.task.text)
    if text:
        find_sources(settings.task.text)
    if isinstance(task, TextAlone) and not isinstance(sample, Documents):
        does = "attempts problems" if recipe.acts else "imitates demonstrations"
        raise UserError(f"recipe {settings.recipe['name']} {does}, and {NO_PROBLEMS}")
    if isinstance(sample, Documents) and not text and not task.documents():
        raise UserError(f"task {task.name} has no documents to read; give --text")
    if isinstance(sample, Documents) and sample.across and not text and not sample.block:
        raise UserError("recipe.sample.across = true is for blocks, and documents are taken whole; set a block as well")
    blocks = text or (isinstance(sample, Documents) and sample.block > 0)
    in_pieces = reads_text(sample) and blocks and not (isinstance(sample, Documents) and sample.across)
    if in_pieces and recipe.aggregate not in (token_mean, prompt_mean) and is_own(recipe.aggregate):
        raise UserError(
            f"aggregate={show(recipe.aggregate)} would count every document's piece of a block like a whole attempt; "
            "set recipe.aggregate=token_mean, or prompt_mean"
        )


def check_shown(recipe: Recipe, task: Task) -> None:
    """Raise UserError where there is nothing to imitate, for a conversation that is to be imitated and does not end
    with the assistant, and for data sets to mix where nothing of them is imitated."""
    if not isinstance(recipe.sample, Demonstrations):
        if task.shares():
            raise UserError("task.also is mixed into what is imitated, and this recipe imitates none of it; drop it")
        return
    require_endings(task)
    if not task.demonstrations():
        raise UserError(f"task {task.name} has no demonstrations; this recipe needs some")


def check_length(settings: RunSettings, recipe: Recipe) -> None:
    """Raise UserError where a step has fewer problems than mini-batches, or the critic's warm-up outlasts the run."""
    reuse = recipe.reuse
    if reuse.minibatches > settings.problems:
        raise UserError(
            f"recipe.reuse.minibatches = {reuse.minibatches}, and a step has problems = {settings.problems}, which "
            "stay whole; raise the second or lower the first"
        )
    total = 0 if settings.epochs else settings.steps * reuse.num_updates  # epochs become steps when the rows are known
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
