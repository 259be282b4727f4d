"""Slots that do not go together, found before a run begins."""

from __future__ import annotations

from collections.abc import Iterator

from upslope.algo.advantage import BatchZScore, GroupZScore, group_mean, leave_one_out, ones
from upslope.algo.correction import no_correction
from upslope.algo.critic import Critic, SharedTrunk
from upslope.algo.recipe import Recipe, show
from upslope.algo.regulariser import Place
from upslope.algo.sample import Attempts, everything
from upslope.algo.shape import identity
from upslope.algo.surrogate import ImportanceRatio
from upslope.algo.update import KLBall
from upslope.errors import UserError


def check(recipe: Recipe) -> None:
    """Raise UserError naming the slots and the mend, if the recipe's slots contradict each other."""
    for complaint in complaints(recipe):
        raise UserError(f"this recipe cannot run: {complaint}")


def complaints(recipe: Recipe) -> Iterator[str]:
    """Every contradiction, in slot order."""
    sample, advantage, place = recipe.sample, recipe.advantage, leash_place(recipe)
    by_group = advantage in (group_mean, leave_one_out) or isinstance(advantage, GroupZScore)
    by_group = by_group or (isinstance(advantage, BatchZScore) and advantage.centre == "group")
    if isinstance(sample, Attempts):
        if by_group and sample.group_size < 2:
            yield (
                f"advantage={show(advantage)} compares the attempts at one problem, and sample.group_size is "
                f"{sample.group_size}; set it to 2 or more"
            )
        if sample.refill and sample.keep is everything:
            yield "sample.refill tries further problems until enough groups are kept; set sample.keep=mixed or rewarded"
    else:
        if recipe.correction is not no_correction or "sampler_logp" in recipe.needs:
            yield "given text has no sampler whose log-probabilities could be used; use recipes that act for themselves"
        if by_group:
            yield (
                f"advantage={show(advantage)} compares attempts at one problem, and every demonstration stands alone; "
                "set advantage=ones"
            )
        if place == "reward":
            yield "given text has no reward for the leash to be paid in; set regulariser.place=loss"
    if advantage is ones and ((place == "reward" and recipe.acts) or recipe.shape is not identity):
        yield (
            f"advantage=ones never reads a reward, so shape={show(recipe.shape)} and a leash in the reward would do "
            "nothing; set another advantage, or regulariser.place=loss"
        )
    if recipe.correction is not no_correction and isinstance(recipe.surrogate, ImportanceRatio):
        yield (
            "surrogate=importance_ratio is taken against the sampler already, and a correction would count it twice; "
            "set correction=no_correction"
        )
    if place == "reward" and not hasattr(recipe.regulariser, "cost"):
        yield f"regulariser={show(recipe.regulariser)} has no method cost(batch), which a leash in the reward needs"
    if recipe.has_critic and not isinstance(recipe.critic, Critic):
        yield f"critic={show(recipe.critic)} is no upslope.algo.critic.Critic; derive it from one"
    if recipe.has_critic and "values" not in recipe.needs:
        yield f"critic={show(recipe.critic)} has no one to tell; set advantage=gae, or critic=no_critic"
    if "values" in recipe.needs and not recipe.has_critic:
        yield f"advantage={show(advantage)} needs a critic; set critic=own_copy or critic=shared_trunk"
    if isinstance(recipe.update, KLBall) and isinstance(recipe.critic, SharedTrunk):
        yield "update=kl_ball moves the policy's weights alone; set critic=own_copy"


def leash_place(recipe: Recipe) -> Place | None:
    """Where the leash acts; None without one."""
    place: Place | None = getattr(recipe.regulariser, "place", None)
    return place
