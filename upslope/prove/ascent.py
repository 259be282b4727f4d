"""Claim 34: the optimizer goes up."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.family import REINFORCE
from upslope.prove.claim import Check, Fact, at_least, claim, equal
from upslope.prove.expect import in_expectation, prepared
from upslope.prove.world import World, toy

STEPS, RATE = 20, 0.03


@claim(
    34,
    "ascent",
    "Steps of the optimizer are Adam's ascent of J, and the first of them gains lr times sum |grad J|",
    source="arXiv 1412.6980, algorithm 1; arXiv 1711.05101",
    compares="weights after twenty updates with Adam by hand on grad J; the first step's gain with its slope",
)
def ascent() -> Iterator[Check | Fact]:
    """m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w + lr m' / (sqrt v' + eps) with g = grad J and m', v' freed of
    their start at 0. The first step is lr g / (|g| + eps), so J rises by lr sum |g| to first order."""
    world = toy()
    here, slope_W = float(world.expected_reward().detach()), world.slope(world.expected_reward())
    gained = []
    for rate in (1e-4, 2e-4):
        there = trained(world, rate, 1)
        gained.append((float(there.expected_reward().detach()) - here) / rate)
    yield equal(
        "the first step's gain over lr, at lr = 0: sum |grad J|",
        2 * gained[0] - gained[1],
        slope_W.abs().sum(),
        tolerance=1e-6,
        why="an extrapolation from lr = 1e-4 and 2e-4, off by lr^2 times a third derivative",
    )
    after = trained(world, RATE, STEPS)
    yield equal(f"{STEPS} updates: the weights", after.weights, by_hand(world, RATE, STEPS).weights)
    risen = float(after.expected_reward().detach()) - here
    yield at_least(f"{STEPS} updates: J rises by", risen, 0.1)
    yield Fact("J before", here)
    yield Fact(f"J after {STEPS} updates", here + risen)
    yield Fact("largest reward", float(world.reward_Y.max()))


def trained(world: World, rate: float, steps: int) -> World:
    """Where the learner of a run stands after so many updates, each on the expectation over fresh attempts."""
    learner = world.learner(REINFORCE, lr=rate)
    for _ in range(steps):
        batch = in_expectation(prepared(learner, world.at(learner).groups(1)[0]), world.at(learner).groups(1)[1])
        learner.recipe.update(learner, learner.objective, batch)
    return world.at(learner)


def by_hand(world: World, rate: float, steps: int) -> World:
    """Adam on grad J, written out; with the decays and eps of a run."""
    settings = world.learner(REINFORCE).optimizer.settings
    beta1, beta2, eps = settings.beta1, settings.beta2, settings.eps
    mean_W = square_W = torch.zeros_like(world.weights)
    for t in range(1, steps + 1):
        slope_W: Tensor = world.slope(world.expected_reward())
        mean_W = beta1 * mean_W + (1 - beta1) * slope_W
        square_W = beta2 * square_W + (1 - beta2) * slope_W.square()
        scale_W = (square_W / (1 - beta2**t)).sqrt() + eps
        world = world.stepped(rate * mean_W / (1 - beta1**t) / scale_W)
    return world
