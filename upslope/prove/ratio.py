"""Claims 7 and 17: importance ratios, of tokens and of trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import group_mean, returns
from upslope.algo.aggregate import ConstantLength, sequence_mean, sequence_sum, token_mean
from upslope.algo.critic import no_critic
from upslope.algo.family import DAPO, GRPO, IMPORTANCE, PPO, REINFORCE, REINFORCE_BASELINE, TRPO
from upslope.algo.recipe import Recipe, show
from upslope.algo.regulariser import no_penalty
from upslope.algo.sample import Attempts
from upslope.algo.shape import identity
from upslope.algo.surrogate import ClippedWeight, ImportanceRatio, likelihood
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal, gap
from upslope.prove.expect import gradient, in_expectation, loss, prepared
from upslope.prove.world import World, llama, stand_at, toy
from upslope.types import given

DRIFTS = (0.01, 0.1, 0.5, 1.5)
"""How far the weights are from those that sampled, as a length of the vector of all weights."""


def off_policy(world: World, now: World, recipe: Recipe, size: int = 1) -> tuple[Tensor, float]:
    """(expected gradient, expected loss): attempts drawn in ``world``, the learner standing where ``now`` is."""
    groups, prob_P = world.groups(size)
    learner = world.learner(recipe)
    batch = in_expectation(prepared(learner, groups), prob_P)
    stand_at(learner, now)
    return gradient(learner, batch), loss(learner, batch)


@claim(
    7,
    "importance",
    "Trajectory weights are unbiased off policy and per-token ratios are not; at the first step all surrogates agree",
    source="arXiv 1502.05477, equation 3; arXiv 1707.06347, equation 6; Precup, Sutton & Singh 2000",
    compares="expected off-policy gradients with grad J; first steps of five recipes, each time under one aggregate",
)
def importance() -> Iterator[Check | Fact]:
    """E_{y ~ mu}[prod_t r_t R grad log pi(y)] = grad J(pi). A token's own ratio leaves out that the tokens before it
    came from mu too: equal at pi = mu, apart to first order in the drift. Rewards are plain; for the group mean the
    same holds with claim 5's factor."""
    for name, world in (("toy", toy()), ("transformer", llama())):
        yield from drifting(name, world)
    yield from first_step(toy())


def drifting(name: str, world: World) -> Iterator[Check | Fact]:
    """The learner steps further and further away from the policy that sampled."""
    whole = REINFORCE.patch(surrogate=ImportanceRatio(level="trajectory"), aggregate=sequence_sum)
    single = REINFORCE.patch(surrogate=ImportanceRatio(level="token"), aggregate=sequence_sum)
    gaps = []
    for drift in DRIFTS:
        now = world.moved(drift)
        reward = now.expected_reward()
        truth_W = now.slope(reward)
        found_W, found = off_policy(world, now, whole)
        yield equal(f"{name}, drift {drift}: trajectory weights give grad J", found_W, truth_W)
        yield equal(f"{name}, drift {drift}: and J itself", -found, reward)
        token_W, _ = off_policy(world, now, single)
        gaps.append(gap(token_W, truth_W))
        yield Fact(f"{name}, drift {drift}: per-token ratios are off grad J by", gaps[-1])
        yield Fact(f"{name}, drift {drift}: per-token ratios turn it by degrees", angle(token_W, truth_W))
    yield at_most(f"{name}: the gap grows with a small drift", torch.tensor(gaps[:2]), torch.tensor(gaps[1:3]))
    yield at_least(f"{name}: the gap at the largest drift", gaps[-1], 0.05)
    now = world.moved(DRIFTS[2])
    grouped_W, _ = off_policy(world, now, whole.patch(advantage=group_mean), 2)
    yield equal(f"{name}: the group mean, G = 2: 1/2 grad J", grouped_W, now.slope(now.expected_reward()) / 2)
    token_W, _ = off_policy(world, world, single)
    yield equal(f"{name}, no drift: per-token ratios give grad J", token_W, world.slope(world.expected_reward()))


def first_step(world: World) -> Iterator[Check | Fact]:
    """r = 1: with the same advantage (the group mean), the same aggregate and no penalty, every surrogate has the plain
    gradient on the same rows with the same weights. DAPO's shaping and row filter are no part of that."""
    like_the_others = {"advantage": group_mean, "regulariser": no_penalty}
    recipes = {
        "importance": IMPORTANCE,
        "TRPO": TRPO,
        "PPO": PPO.patch(critic=no_critic, **like_the_others),
        "GRPO": GRPO.patch(**like_the_others),
        "DAPO": DAPO.patch(sample=Attempts(), shape=identity, **like_the_others),
    }
    groups, prob_P = world.groups(2)
    for aggregate in (sequence_sum, sequence_mean, ConstantLength(), token_mean):
        plain = world.learner(REINFORCE_BASELINE.patch(aggregate=aggregate))
        plain_W = gradient(plain, in_expectation(prepared(plain, groups), prob_P))
        for name, recipe in recipes.items():
            learner = world.learner(recipe.patch(aggregate=aggregate))
            found_W = gradient(learner, in_expectation(prepared(learner, groups), prob_P))
            yield equal(f"first step, {name}, {show(aggregate)}", found_W, plain_W)


@claim(
    17,
    "detached-ratio",
    "The surrogate's gradient is the score-function gradient with the ratio as a constant weight",
    source="arXiv 1707.06347, equation 6; arXiv 2506.13585, equation 4",
    compares="grad(r A) with sg(r) A grad log pi, at the first step and after the policy moved",
)
def detached_ratio() -> Iterator[Check | Fact]:
    """grad exp(log pi - sg(log mu)) A = r A grad log pi. At r = 1: grad exp(log pi - sg(log pi)) = grad log pi."""
    world = toy()
    groups, prob_P = world.groups(2)
    for drift in (0.0, 0.5):
        now = world.moved(drift)
        for level in ("token", "trajectory"):
            surrogate = ImportanceRatio(level=level)
            learner = world.learner(REINFORCE_BASELINE.patch(surrogate=surrogate))
            batch = in_expectation(prepared(learner, groups), prob_P)
            stand_at(learner, now)
            found_W = gradient(learner, batch)
            with torch.no_grad():
                ratio_NT = torch.exp(surrogate.log_ratio(learner.score(batch).logp_NT, batch))
            weighted = replace(batch, advantage_NT=ratio_NT * given(batch.advantage_NT, "advantage_NT"))
            plain = world.learner(REINFORCE_BASELINE.patch(surrogate=likelihood))
            stand_at(plain, now)
            yield equal(f"drift {drift}, {level} ratio", found_W, gradient(plain, weighted))
        yield from unclipped_weight(world, now, drift)
    found_W, _ = off_policy(world, world, REINFORCE.patch(surrogate=ImportanceRatio(), advantage=returns))
    yield equal("on policy both are grad J", found_W, world.slope(world.expected_reward()))


def unclipped_weight(world: World, now: World, drift: float) -> Iterator[Check | Fact]:
    """CISPO with nothing to clip is the ratio, written with an explicit sg(r)."""
    found = []
    for surrogate in (ImportanceRatio(), ClippedWeight(low=1.0, high=1e9)):
        learner = world.learner(IMPORTANCE.patch(surrogate=surrogate))  # its four epochs make it keep log pi_old
        batch = prepared(learner, world.groups(2)[0])
        stand_at(learner, now)
        found.append(gradient(learner, batch))
    yield equal(f"drift {drift}, sg(r) A log pi written out", *found)
