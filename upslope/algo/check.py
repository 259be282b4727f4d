"""Slots that do not go together, found before a run begins."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields

from upslope.algo.advantage import ones
from upslope.algo.correction import no_correction
from upslope.algo.critic import LearnedCritic, SharedTrunk
from upslope.algo.learnable import Learnable
from upslope.algo.recipe import Recipe, show
from upslope.algo.regulariser import K1, SampledPenalty
from upslope.algo.sample import Attempts, everything, mixed
from upslope.algo.shape import SoftOverlong, identity
from upslope.algo.slots import CONTRACTS, NEEDS, NUM_ARGUMENTS, Regulariser, Slot
from upslope.errors import UserError, nearest


def check(recipe: Recipe) -> None:
    """Raise UserError naming slot and mend, if one breaks its contract or some contradict each other."""
    for complaint in complaints(recipe):
        raise UserError(f"this recipe cannot run: {complaint}")


def complaints(recipe: Recipe) -> Iterator[str]:
    """Every slot that breaks its contract, then every contradiction: what a recipe asks for must make sense, and do
    something."""
    broken = list(_contracts(recipe))
    yield from broken
    if broken:
        return
    if isinstance(recipe.sample, Attempts):
        yield from _attempts(recipe, recipe.sample)
    else:
        yield from _given_text(recipe)
    yield from _ratio(recipe)
    yield from _critic(recipe)
    yield from _penalty(recipe)


def _contracts(recipe: Recipe) -> Iterator[str]:
    """Whether every slot holds what it can be asked for; see ``upslope.algo.slots``."""
    for slot in (f.name for f in fields(recipe)):
        value = getattr(recipe, slot)
        if slot not in NUM_ARGUMENTS:
            if not isinstance(value, CONTRACTS[slot]):
                yield f"{slot}={show(value)} is no value of this slot; take one of upslope.algo.{slot}"
            continue
        if isinstance(value, type):
            yield f"{slot}={show(value)} is a class; give one of it, {show(value)}(...)"
            continue
        if not callable(value):
            yield f"{slot}={show(value)} cannot be called; a slot holds a function or a frozen dataclass with __call__"
            continue
        try:
            inspect.signature(value).bind(*[None] * NUM_ARGUMENTS[slot])
        except (TypeError, ValueError):
            wanted = {1: "(batch)", 2: "(scored, batch)", 3: "(learner, objective, minibatch)"}[NUM_ARGUMENTS[slot]]
            yield f"{slot}={show(value)} is called with {wanted}, which it does not take"
        for need in sorted(set(recipe.asked(slot).needs) - NEEDS):
            yield f"{slot}={show(value)} needs {need!r}, which nothing can fill{nearest(str(need), NEEDS)}"
    place = recipe.penalty_place
    if place not in ("loss", "reward", None):
        yield f"regulariser={show(recipe.regulariser)} has place={place!r}; it acts in the loss or in the reward"


def compares_by_group(recipe: Recipe) -> bool:
    """Whether the advantage needs several attempts at one problem."""
    return bool(recipe.asked("advantage").compares == "group")


def tells_tokens_apart(recipe: Recipe) -> bool:
    """Whether tokens of one attempt are known to get different advantages."""
    by_token = recipe.asked("advantage").by_token
    return by_token == "always" or (by_token == "if they are rewarded" and recipe.penalty_place == "reward")


def by_decree(recipe: Recipe) -> bool:
    """Whether all that is kept is good, alike and whatever it earned."""
    advantage = recipe.asked("advantage")
    return not advantage.reads_reward and advantage.by_token == "never" and advantage.compares == "nothing"


def one_for_each_token(surrogate: object) -> str:
    """How a surrogate with one ratio for an attempt is exchanged for one with a ratio for each token."""
    return "surrogate.level=token" if hasattr(surrogate, "level") else "surrogate=clipped_ratio"


def _attempts(recipe: Recipe, sample: Attempts) -> Iterator[str]:
    advantage = show(recipe.advantage)
    if sample.group_size < 2 and (compares_by_group(recipe) or sample.keep is mixed):
        who = f"advantage={advantage}" if compares_by_group(recipe) else "sample.keep=mixed"
        yield (
            f"{who} compares the attempts at one problem, and sample.group_size is {sample.group_size}; set it to 2 "
            "or more"
        )
    if isinstance(sample, Learnable) and sample.weighted:
        yield from _weighted(recipe, sample)
    if sample.refill and sample.keep is everything:
        yield "sample.refill tries further problems until enough groups are kept; set sample.keep=mixed or rewarded"
    unread = not recipe.asked("advantage").reads_reward
    if unread and recipe.shape is not identity:
        yield (
            f"advantage={advantage} never reads a reward, so shape={show(recipe.shape)} would do nothing; set another "
            "advantage, or shape=identity"
        )
    if unread and recipe.penalty_place == "reward":
        yield (
            f"advantage={advantage} never reads a reward, so regulariser={show(recipe.regulariser)}, paid in it, would "
            f"do nothing; set another advantage, or {_into_the_loss(recipe)}"
        )
    if by_decree(recipe) and sample.keep in (everything, mixed):
        yield (
            f"advantage={advantage} pushes every attempt alike, and sample.keep={show(sample.keep)} keeps the wrong "
            "ones, so on average nothing is learnt; set sample.keep=rewarded, or another advantage"
        )


def _weighted(recipe: Recipe, sample: Learnable) -> Iterator[str]:
    """A group's weight undoes the chance of its own draw. What also depends on whoever else was drawn stays."""
    undone = "so weights cannot undo the draw; set sample.weighted=false, or"
    for slot, mend in (("shape", "identity"), ("advantage", "group_mean"), ("aggregate", "sequence_mean")):
        asked = recipe.asked(slot)
        if asked.pools_batch or (slot == "advantage" and asked.compares == "batch"):
            yield (
                f"{slot}={show(getattr(recipe, slot))} scales by all attempts of a step, whose problems were not drawn "
                f"alike, {undone} {slot}={mend}"
            )
    for slot in (f.name for f in fields(recipe)):
        if type(recipe.asked(slot)).over_update is not Slot.over_update:
            yield (
                f"{slot}={show(getattr(recipe, slot))} chooses among the tokens of all problems of an update, {undone} "
                f"another {slot}"
            )
    if sample.keep is not everything:
        yield f"sample.keep={show(sample.keep)} divides by how many attempts it keeps, {undone} sample.keep=everything"
    if sample.drop_truncated:
        yield f"sample.drop_truncated=true divides by how many attempts are left, {undone} sample.drop_truncated=false"


def _given_text(recipe: Recipe) -> Iterator[str]:
    advantage, penalty = recipe.advantage, recipe.regulariser
    if recipe.correction is not no_correction or "sampler_logp" in recipe.needs:
        yield "given text has no sampler whose log-probabilities could be used; use recipes that act for themselves"
    if compares_by_group(recipe):
        yield (
            f"advantage={show(advantage)} compares attempts at one problem, and every demonstration stands alone; "
            "set advantage=ones"
        )
    elif recipe.asked("advantage").compares != "nothing":
        yield (
            f"advantage={show(advantage)} judges by the reward, and every demonstration has reward 1; set "
            "advantage=ones and critic=no_critic"
        )
    elif not (recipe.asked("advantage").reads_reward or by_decree(recipe)):
        yield (
            f"advantage={show(advantage)} judges what the policy itself drew, and nobody drew given text; set "
            "advantage=ones"
        )
    if recipe.penalty_place == "reward":
        yield f"given text has no reward for the penalty to be paid in; set {_into_the_loss(recipe)}"
    if isinstance(penalty, SampledPenalty) and penalty.weighted:
        yield (
            f"regulariser={show(penalty)} weighs what the old policy drew, and nobody drew given text; set "
            "regulariser=exact_kl"
        )
    if recipe.shape is not identity and (advantage is ones or isinstance(recipe.shape, SoftOverlong)):
        yield (
            f"shape={show(recipe.shape)} changes a reward, and given text is imitated without one; set shape=identity"
        )


def _into_the_loss(recipe: Recipe) -> str:
    """How a penalty is moved out of the reward: k1 has no gradient on average in the loss."""
    if not isinstance(recipe.regulariser, K1):
        return "regulariser.place=loss"
    return "regulariser=k2" if recipe.acts else "regulariser=exact_kl"


def _ratio(recipe: Recipe) -> Iterator[str]:
    surrogate, updates = recipe.surrogate, recipe.reuse.num_updates
    declared = recipe.asked("surrogate")
    if not declared.has_ratio and updates > 1 and recipe.acts and not by_decree(recipe):
        yield (
            f"surrogate={show(surrogate)} has no ratio for a policy that has moved, and reuse={show(recipe.reuse)} "
            f"makes {updates} updates a batch; set surrogate=clipped_ratio or importance_ratio, or reuse.epochs=1 and "
            "reuse.minibatches=1"
        )
    if declared.against_sampler and recipe.correction is not no_correction and recipe.asked("correction").reweighs:
        yield (
            f"surrogate={show(surrogate)} is taken against the sampler already, and a correction would count it twice; "
            "set correction=no_correction"
        )
    if declared.weighs_attempts and recipe.asked("aggregate").divides_by_length:
        yield (
            f"surrogate={show(surrogate)} weighs an attempt as a whole, and aggregate={show(recipe.aggregate)} divides "
            "it by lengths once more; set aggregate=sequence_sum or constant_length, or surrogate.level=token"
        )
    if declared.one_ratio and tells_tokens_apart(recipe):
        yield (
            f"surrogate={show(surrogate)} has one ratio for all tokens of an attempt, and would average away what "
            f"advantage={show(recipe.advantage)} says of each; set {one_for_each_token(surrogate)}"
        )


def _critic(recipe: Recipe) -> Iterator[str]:
    critic = recipe.critic
    if recipe.has_critic and not isinstance(critic, LearnedCritic):
        yield f"critic={show(critic)} is no upslope.algo.critic.LearnedCritic; derive it from one"
    if recipe.has_critic and "values" not in recipe.needs:
        yield f"critic={show(critic)} has no one to tell; set advantage=gae, or critic=no_critic"
    told = not recipe.acts and recipe.asked("advantage").compares == "values"  # that it has no place here at all
    if "values" in recipe.needs and not recipe.has_critic and not told:
        yield f"advantage={show(recipe.advantage)} needs a critic; set critic=own_copy or critic=shared_trunk"
    if isinstance(critic, SharedTrunk) and not critic.weight > 0:
        yield f"critic={show(critic)} would never learn; set critic.weight above 0, or critic=own_copy"
    if recipe.asked("update").moves_policy_alone and isinstance(critic, SharedTrunk):
        yield f"update={show(recipe.update)} moves the policy's weights alone; set critic=own_copy"


def _penalty(recipe: Recipe) -> Iterator[str]:
    penalty, declared = recipe.regulariser, recipe.asked("regulariser")
    if recipe.penalty_place == "reward" and getattr(declared.cost, "__func__", None) is Regulariser.cost:
        yield f"regulariser={show(penalty)} has no method cost(batch), which a penalty in the reward needs"
    if not declared.holds:
        yield f"regulariser={show(penalty)} costs its passes and holds nothing; set regulariser=no_penalty"
    if isinstance(penalty, K1) and penalty.place == "loss" and not penalty.weighted:
        mends = "regulariser.place=reward, regulariser.weighted=true, or regulariser=k2"
        yield (
            f"regulariser={show(penalty)} has no gradient on average in the loss, so it holds nothing there; set "
            f"{mends if recipe.acts else 'regulariser=exact_kl'}"
        )
