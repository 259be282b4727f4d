"""Claim 20: attempts from a sampler that is not the learner, and what each correction makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.correction import MaskedWeights, TruncatedWeights, no_correction
from upslope.algo.family import REINFORCE
from upslope.algo.recipe import Recipe
from upslope.algo.reuse import Reuse
from upslope.algo.surrogate import ClippedRatio
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, gap
from upslope.prove.expect import gradient, in_expectation, prepared
from upslope.prove.whole_ratio import inside, log_ratio
from upslope.prove.world import World, toy

FREE = 1e9
"""A cap that cuts nothing."""


def corrected(drawn: World, now: World, recipe: Recipe) -> Tensor:
    """The expected gradient of a learner that prepares its batch where ``now`` is, from attempts of ``drawn``: what it
    calls its old log-probabilities are its own, and those of the sampler are others."""
    groups, prob_Y = drawn.groups(1)
    learner = now.learner(recipe)
    return gradient(learner, in_expectation(prepared(learner, groups), prob_Y))


def weights(drawn: World, now: World, level: str) -> Tensor:
    """c_t = pi(y_t) / mu(y_t), or prod_t c_t at every token; YT, constant."""
    log_YT = log_ratio(drawn, now).detach()
    return (log_YT if level == "token" else log_YT.sum(dim=1, keepdim=True).expand_as(log_YT)).exp()


def pushed(drawn: World, now: World, weight_YT: Tensor) -> Tensor:
    """grad of sum_y mu(y) R(y) sum_t w_t log pi(y_t), w constant, shape W."""
    per_Y = (weight_YT * inside(drawn) * now.logp_YT()).sum(dim=1)
    return now.slope((drawn.prob_Y().detach() * drawn.reward_Y * per_Y).sum())


@claim(
    20,
    "stale-sampler",
    "With a stale sampler trajectory weights give grad J, token weights less of the error, no correction all of it",
    source="Ionides 2008 (truncated weights); Yao et al. 2025 (TIS); Ling Team 2025 (IcePop); arXiv 1502.05477",
    compares="expected gradients with grad J where the learner stands, and with weights by hand, cut and dropped",
)
def stale_sampler() -> Iterator[Check | Fact]:
    """E_{y ~ mu}[prod_t c_t R grad log pi(y)] = grad J(pi), c_t = pi(y_t) / mu(y_t). Cut: min(c, cap). Dropped: 0
    outside [low, high]."""
    world = toy()
    for drift in (0.1, 0.3):
        now = world.moved(drift)
        truth_W = now.slope(now.expected_reward())
        whole_W = corrected(world, now, REINFORCE.patch(correction=TruncatedWeights(FREE, "trajectory")))
        yield equal(f"drift {drift}, trajectory weights: grad J", whole_W, truth_W)
        token_W = corrected(world, now, REINFORCE.patch(correction=TruncatedWeights(FREE)))
        none_W = corrected(world, now, REINFORCE.patch(correction=no_correction))
        yield equal(
            f"drift {drift}, no correction: by hand", none_W, pushed(world, now, torch.ones_like(now.logp_YT()))
        )
        yield at_least(
            f"drift {drift}: token weights halve what is off", gap(none_W, truth_W) / gap(token_W, truth_W), 2
        )
        for name, found_W in (("nothing", none_W), ("token weights", token_W), ("trajectory weights", whole_W)):
            yield Fact(f"drift {drift}, {name}: off grad J by", gap(found_W, truth_W))
            yield Fact(f"drift {drift}, {name}: degrees off grad J", angle(found_W, truth_W))
    yield from cut_and_dropped(world, now)
    yield from on_policy(world)


def cut_and_dropped(world: World, now: World) -> Iterator[Check | Fact]:
    """What a cap and a range do to the weights, and that they multiply a ratio's surrogate too."""
    truth_W = now.slope(now.expected_reward())
    mass_Y = world.prob_Y().detach()[:, None] * inside(world)
    for level in ("token", "trajectory"):
        weight_YT = weights(world, now, level)
        for cap in (1.0, 1.2):
            slot = TruncatedWeights(cap, level)
            found_W = corrected(world, now, REINFORCE.patch(correction=slot))
            label = f"{level} weights capped at {cap}"
            yield equal(label, found_W, pushed(world, now, torch.where(weight_YT > cap, cap, weight_YT)))
            yield Fact(f"{label}: off grad J by", gap(found_W, truth_W))
        for low, high in ((0.8, 1.2), (0.0, 1.1), (0.9, 1e9)):
            masked = MaskedWeights(low, high, level)
            found_W = corrected(world, now, REINFORCE.patch(correction=masked))
            kept_YT = (weight_YT >= low) & (weight_YT <= high)
            label = f"{level} weights outside [{low}, {high}] dropped"
            yield equal(label, found_W, pushed(world, now, torch.where(kept_YT, weight_YT, 0)))
            yield Fact(f"{label}: off grad J by", gap(found_W, truth_W))
            yield Fact(f"{label}: share of tokens", float((mass_Y * ~kept_YT).sum() / mass_Y.sum()))
    clipped = REINFORCE.patch(surrogate=ClippedRatio(), correction=TruncatedWeights(FREE, "trajectory"))
    for epochs in (1, 2):
        found_W = corrected(world, now, clipped.patch(reuse=Reuse(epochs=epochs)))
        yield equal(f"PPO's clip with trajectory weights, first of {epochs} updates: grad J", found_W, truth_W)


def on_policy(world: World) -> Iterator[Check | Fact]:
    """Where the sampler is the learner, every weight is 1 and nothing is cut."""
    for slot in (TruncatedWeights(1.5), TruncatedWeights(1.5, "trajectory"), MaskedWeights(), MaskedWeights(0.9, 1.1)):
        found_W = corrected(world, world, REINFORCE.patch(correction=slot))
        yield equal(f"on policy, {slot}: grad J", found_W, world.slope(world.expected_reward()))
