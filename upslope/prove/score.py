"""Claims 1 and 2: the score function, and the gradient of expected reward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import ones
from upslope.algo.family import REINFORCE
from upslope.prove.claim import Check, Fact, claim, equal, vanishes
from upslope.prove.expect import each_gradient, expected_over
from upslope.prove.world import PLAIN, World, llama, right_or_wrong, toy

WORLDS = (("toy", toy), ("transformer", llama))


@claim(
    1,
    "log-derivative",
    "A trajectory's log-probability is the sum over its tokens, p grad log p = grad p, and the expected score is 0",
    source="Williams 1992; Sutton & Barto 2018, section 13.3",
    compares="the learner's scores of every response with a walk through the tree of prefixes",
)
def log_derivative() -> Iterator[Check | Fact]:
    """log p(y) = sum_t log pi(y_t | y_<t); grad p(y) = p(y) grad log p(y); sum_y p(y) grad log p(y) = grad 1 = 0."""
    for name, make in WORLDS:
        world = make()
        prob_Y = world.prob_Y()
        yield equal(f"{name}: probabilities of all responses add up to 1", prob_Y.sum(), 1.0)
        scored_NT, _ = world.policy.score(world.rollouts(), PLAIN, world.limit)
        yield equal(f"{name}: log p(y) is the sum of the scored tokens", scored_NT.sum(dim=1), prob_Y.log())
        tails = [replace(r, mask=(False, *r.mask[1:])) for r in world.rollouts()]
        tail_NT, _ = world.policy.score(tails, PLAIN, world.limit)
        yield equal(f"{name}: of its chosen tokens alone", tail_NT.sum(dim=1), world.logp_YT()[:, 1:].sum(dim=1))
        groups, _ = world.groups(1)
        score_YW = each_gradient(world.learner(REINFORCE.patch(advantage=ones)), groups)
        slope_YW = torch.stack([world.slope(p) for p in prob_Y])
        yield equal(f"{name}: p grad log p = grad p, response by response", prob_Y[:, None] * score_YW, slope_YW)
        yield vanishes(f"{name}: the expected score", expected_over(world, REINFORCE.patch(advantage=ones)))
        yield Fact(f"{name}: responses", len(world.responses))
        yield Fact(f"{name}: weights", score_YW.shape[1])


@claim(
    2,
    "reinforce",
    "REINFORCE's expected gradient is the gradient of expected reward",
    source="Williams 1992, theorem 1",
    compares="E[A grad log p] through the learner with the gradient of J = sum_y p(y) R(y)",
)
def reinforce() -> Iterator[Check | Fact]:
    """E_y[R(y) grad log p(y)] = grad sum_y p(y) R(y), for arbitrary rewards and for 0/1."""
    for name, make in WORLDS:
        for kind, world in (("arbitrary rewards", make()), ("0/1 rewards", right_or_wrong(make()))):
            slope_W = world.slope(world.expected_reward())
            yield equal(f"{name}, {kind}, one attempt", expected_over(world, REINFORCE), slope_W)
            yield Fact(f"{name}, {kind}: |grad J|", float(slope_W.norm()))
    world = toy()
    truth_W = world.slope(world.expected_reward())
    yield equal("toy, every group of 2", expected_over(world, REINFORCE, 2), truth_W)
    yield equal(
        "toy, against central differences of J",
        expected_over(world, REINFORCE),
        central_differences(world),
        tolerance=1e-7,
        why="a difference over h = 1e-5 is off by h^2 = 1e-10 of the third derivative and by 1e-16 / h = 1e-11 of J",
    )


def central_differences(world: World, step: float = 1e-5) -> Tensor:
    """(J(w + h) - J(w - h)) / 2h, weight by weight."""
    found = []
    here = world.copy()
    with torch.no_grad():
        for weight in here.policy.model.parameters():
            flat = weight.view(-1)
            for i in range(len(flat)):
                at = float(flat[i])
                sides = []
                for sign in (1, -1):
                    flat[i] = at + sign * step
                    sides.append(float(here.expected_reward()))
                flat[i] = at
                found.append((sides[0] - sides[1]) / (2 * step))
    return torch.tensor(found, dtype=torch.float64)
