"""Claim 35: a step inside the budget that does not improve is not taken."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from upslope.algo.update import KLBall
from upslope.model.distribution import divergence
from upslope.prove.claim import Check, Fact, at_least, at_most, claim, equal, vanishes
from upslope.prove.curvature import mean_kl, share_of_states, standing
from upslope.prove.world import World, toy

BUDGET = 1.0
"""So wide that the rim is far outside of what the first-order picture is good for."""


def wide(backtracks: int = 25) -> KLBall:
    return KLBall(delta=BUDGET, damping=1e-3, iterations=300, fisher_share=1.0, backtracks=backtracks)


@claim(
    35,
    "kl-ball",
    "The step taken is the first on the way back from the rim that keeps the budget and improves; else there is none",
    source="arXiv 1502.05477, appendix C (line search)",
    compares="every trial step's KL and surrogate, by hand, with what the update took, reported and refused",
)
def kl_ball() -> Iterator[Check | Fact]:
    """Trials at 1, 0.8, 0.64, ... of sqrt(2 delta / x.Fx) x. L(step) = sum_y p(y) R(y) sum_t r_t, the surrogate."""
    world = toy()
    share = share_of_states(world)
    update = wide()
    learner, batch, region, slope_W = standing(world, update)
    x_W = update.natural_direction(region, slope_W).x
    rim_W = x_W * (2 * BUDGET / float(x_W @ region.fisher_product(x_W))) ** 0.5
    trials = [world.stepped(rim_W * update.shrink**turn) for turn in range(update.backtracks + 1)]
    kls = [float(mean_kl(world, there, share).detach()) for there in trials]
    gains = [surrogate(world, there) - surrogate(world, world) for there in trials]
    first = next(i for i in range(len(trials)) if kls[i] <= BUDGET and gains[i] > 0)
    no_gain = sum(kls[i] <= BUDGET for i in range(first))
    yield at_least("trials within the budget that would have made it worse", float(no_gain), 1.0)
    stats = update(learner, learner.objective, batch).stats
    moved_W = world.at(learner).weights - world.weights
    yield equal(
        "the step taken", moved_W, rim_W * update.shrink**first, tolerance=1e-6, why="x is solved to 1e-10 of b"
    )
    yield equal("its KL", stats["kl_update"], kls[first], tolerance=1e-6, why="the same")
    yield equal("its gain", stats["gain"], gains[first], tolerance=1e-6, why="the same")
    yield equal("shortened so often", stats["backtracks"], float(first))
    yield equal("for want of a gain", stats["no_gain"], float(no_gain))
    yield at_most("within the budget", stats["kl_update"], BUDGET)
    yield at_least(
        "and the surrogate has risen by", surrogate(world, world.at(learner)) - surrogate(world, world), 1e-3
    )
    for turn in range(first + 1):
        yield Fact(f"trial {turn}: KL over the budget", kls[turn] / BUDGET)
        yield Fact(f"trial {turn}: gain", gains[turn])
    yield from refused(world, first)
    yield from cat_and_dog()


def cat_and_dog() -> Iterator[Check | Fact]:
    """One state, "cat" from 0.6 to 0.5 and "dog" from 0.4 to 0.5: sum_v old(v) log (old(v) / now(v)), 0.0201 nats."""
    before, after = torch.tensor([[0.6, 0.4]], dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    for name, old, now in (("there", before, after), ("back", after, before)):
        (a, b), (c, d) = old[0].tolist(), now[0].tolist()
        by_hand = a * math.log(a / c) + b * math.log(b / d)
        yield equal(f"cat and dog, {name}", divergence(old.log(), now.log()), by_hand)
        yield Fact(f"cat and dog, {name}: KL", by_hand)


def refused(world: World, first: int) -> Iterator[Check | Fact]:
    """With fewer trials than it takes there is no step: the weights are what they were, bit for bit."""
    update = wide(first - 1)
    learner, batch, _, _ = standing(world, update)
    stats = update(learner, learner.objective, batch).stats
    yield equal("too few trials: refused", stats["refused"], 1.0)
    yield vanishes("too few trials: the weights moved by", world.at(learner).weights - world.weights)


def surrogate(world: World, now: World) -> float:
    """sum_y p(y) R(y) sum_t r_t over every response once, as ``standing`` draws them."""
    ratio_YT = (now.logp_YT() - world.logp_YT()).detach().exp()
    inside_YT = torch.arange(world.limit) < world.length_Y[:, None]
    return float(world.prob_Y().detach() @ (world.reward_Y * (ratio_YT * inside_YT).sum(dim=1)))
