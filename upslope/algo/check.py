"""Slots that do not go together, found before a run begins."""

from __future__ import annotations

from collections.abc import Iterator

from upslope.algo.advantage import GAE, BatchZScore, ConstantBaseline, GroupZScore, group_mean, leave_one_out, ones
from upslope.algo.aggregate import sequence_mean, token_mean
from upslope.algo.correction import no_correction
from upslope.algo.critic import Critic, SharedTrunk
from upslope.algo.recipe import Recipe, show
from upslope.algo.regulariser import K1, EntropyBonus, ExactKL, Place, Sampled
from upslope.algo.sample import Attempts, everything, mixed
from upslope.algo.shape import SoftOverlong, identity
from upslope.algo.surrogate import ImportanceRatio, likelihood, one_ratio
from upslope.algo.update import KLBall
from upslope.errors import UserError


def check(recipe: Recipe) -> None:
    """Raise UserError naming the slots and the mend, if the recipe's slots contradict each other."""
    for complaint in complaints(recipe):
        raise UserError(f"this recipe cannot run: {complaint}")


def complaints(recipe: Recipe) -> Iterator[str]:
    """Every contradiction, in slot order: what a recipe asks for must make sense, and do something."""
    if isinstance(recipe.sample, Attempts):
        yield from _attempts(recipe, recipe.sample)
    else:
        yield from _given_text(recipe)
    yield from _ratio(recipe)
    yield from _critic(recipe)
    yield from _penalty(recipe)


def compares_by_group(recipe: Recipe) -> bool:
    """Whether the advantage needs several attempts at one problem."""
    if isinstance(recipe.advantage, BatchZScore):
        return recipe.advantage.centre == "group"
    return recipe.advantage in (group_mean, leave_one_out) or isinstance(recipe.advantage, GroupZScore)


def tells_tokens_apart(recipe: Recipe) -> bool:
    """Whether tokens of one attempt are known to get different advantages."""
    by_token = isinstance(recipe.advantage, BatchZScore) and penalty_place(recipe) == "reward"
    return by_token or isinstance(recipe.advantage, GAE)


def _attempts(recipe: Recipe, sample: Attempts) -> Iterator[str]:
    advantage = show(recipe.advantage)
    if sample.group_size < 2 and (compares_by_group(recipe) or sample.keep is mixed):
        who = f"advantage={advantage}" if compares_by_group(recipe) else "sample.keep=mixed"
        yield (
            f"{who} compares the attempts at one problem, and sample.group_size is {sample.group_size}; set it to 2 "
            "or more"
        )
    if sample.refill and sample.keep is everything:
        yield "sample.refill tries further problems until enough groups are kept; set sample.keep=mixed or rewarded"
    if recipe.advantage is ones and (penalty_place(recipe) == "reward" or recipe.shape is not identity):
        yield (
            f"advantage=ones never reads a reward, so shape={show(recipe.shape)} and a penalty in the reward would do "
            "nothing; set another advantage, or regulariser.place=loss"
        )
    if recipe.advantage is ones and sample.keep in (everything, mixed):
        yield (
            f"advantage=ones pushes every attempt alike, and sample.keep={show(sample.keep)} keeps the wrong ones, so "
            "on average nothing is learnt; set sample.keep=rewarded, or another advantage"
        )


def _given_text(recipe: Recipe) -> Iterator[str]:
    advantage, penalty = recipe.advantage, recipe.regulariser
    if recipe.correction is not no_correction or "sampler_logp" in recipe.needs:
        yield "given text has no sampler whose log-probabilities could be used; use recipes that act for themselves"
    if compares_by_group(recipe):
        yield (
            f"advantage={show(advantage)} compares attempts at one problem, and every demonstration stands alone; "
            "set advantage=ones"
        )
    elif isinstance(advantage, (GAE, BatchZScore, ConstantBaseline)):
        yield (
            f"advantage={show(advantage)} judges by the reward, and every demonstration has reward 1; set "
            "advantage=ones and critic=no_critic"
        )
    if penalty_place(recipe) == "reward":
        mend = "regulariser=exact_kl" if isinstance(penalty, K1) else "regulariser.place=loss"
        yield f"given text has no reward for the penalty to be paid in; set {mend}"
    if isinstance(penalty, Sampled) and penalty.weighted:
        yield (
            f"regulariser={show(penalty)} weighs what the old policy drew, and nobody drew given text; set "
            "regulariser=exact_kl"
        )
    if recipe.shape is not identity and (advantage is ones or isinstance(recipe.shape, SoftOverlong)):
        yield (
            f"shape={show(recipe.shape)} changes a reward, and given text is imitated without one; set shape=identity"
        )


def _ratio(recipe: Recipe) -> Iterator[str]:
    surrogate, updates = recipe.surrogate, recipe.reuse.num_updates
    if surrogate is likelihood and updates > 1 and recipe.acts and recipe.advantage is not ones:
        yield (
            f"surrogate=likelihood has no ratio for a policy that has moved, and reuse={show(recipe.reuse)} makes "
            f"{updates} updates a batch; set surrogate=clipped_ratio or importance_ratio, or reuse.epochs=1 and "
            "reuse.minibatches=1"
        )
    if recipe.correction is not no_correction and isinstance(surrogate, ImportanceRatio):
        yield (
            "surrogate=importance_ratio is taken against the sampler already, and a correction would count it twice; "
            "set correction=no_correction"
        )
    whole = isinstance(surrogate, ImportanceRatio) and surrogate.level == "trajectory"
    if whole and recipe.aggregate in (sequence_mean, token_mean):
        yield (
            f"surrogate={show(surrogate)} weighs an attempt as a whole, and aggregate={show(recipe.aggregate)} divides "
            "it by lengths once more; set aggregate=sequence_sum or constant_length, or surrogate.level=token"
        )
    if one_ratio(surrogate) and tells_tokens_apart(recipe):
        yield (
            f"surrogate={show(surrogate)} has one ratio for all tokens of an attempt, and would average away what "
            f"advantage={show(recipe.advantage)} says of each; set surrogate.level=token"
        )


def _critic(recipe: Recipe) -> Iterator[str]:
    critic = recipe.critic
    if recipe.has_critic and not isinstance(critic, Critic):
        yield f"critic={show(critic)} is no upslope.algo.critic.Critic; derive it from one"
    if recipe.has_critic and "values" not in recipe.needs:
        yield f"critic={show(critic)} has no one to tell; set advantage=gae, or critic=no_critic"
    told = not recipe.acts and isinstance(recipe.advantage, GAE)  # that it has no place here at all
    if "values" in recipe.needs and not recipe.has_critic and not told:
        yield f"advantage={show(recipe.advantage)} needs a critic; set critic=own_copy or critic=shared_trunk"
    if isinstance(critic, SharedTrunk) and not critic.weight > 0:
        yield f"critic={show(critic)} would never learn; set critic.weight above 0, or critic=own_copy"
    if isinstance(recipe.update, KLBall) and isinstance(critic, SharedTrunk):
        yield "update=kl_ball moves the policy's weights alone; set critic=own_copy"


def _penalty(recipe: Recipe) -> Iterator[str]:
    penalty = recipe.regulariser
    if penalty_place(recipe) == "reward" and not hasattr(penalty, "cost"):
        yield f"regulariser={show(penalty)} has no method cost(batch), which a penalty in the reward needs"
    if isinstance(penalty, (Sampled, ExactKL, EntropyBonus)) and not penalty.coefficient:
        yield f"regulariser={show(penalty)} costs its passes and holds nothing; set regulariser=no_penalty"
    if isinstance(penalty, K1) and penalty.place == "loss" and not penalty.weighted:
        mends = "regulariser.place=reward, regulariser.weighted=true, or regulariser=k2"
        yield (
            f"regulariser={show(penalty)} has no gradient on average in the loss, so it holds nothing there; set "
            f"{mends if recipe.acts else 'regulariser=exact_kl'}"
        )


def penalty_place(recipe: Recipe) -> Place | None:
    """Where the penalty acts; None without one."""
    place: Place | None = getattr(recipe.regulariser, "place", None)
    return place
