"""Claims 4 and 5: what a baseline leaves alone and what it changes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.advantage import ConstantBaseline, GroupZScore, group_mean, leave_one_out, ones
from upslope.algo.family import REINFORCE
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal
from upslope.prove.expect import each_gradient, expected, expected_over
from upslope.prove.world import llama, toy


def variance(gradient_YW: Tensor, prob_Y: Tensor) -> float:
    """E|g|^2 - |E g|^2, the variance summed over all weights."""
    mean_W = prob_Y @ gradient_YW
    return float(prob_Y @ gradient_YW.square().sum(dim=1) - mean_W.square().sum())


@claim(
    4,
    "constant-baseline",
    "A constant baseline leaves the expected gradient alone and changes its variance, which one value makes least",
    source="Williams 1992; Greensmith, Bartlett & Baxter 2004; Peters & Schaal 2008",
    compares="mean and variance of the learner's gradients with closed forms, for five baselines",
)
def constant_baseline() -> Iterator[Check | Fact]:
    """With s = grad log p: E[(R - b) s] = E[R s] for any b. Var(b) = E[(R - b)^2 |s|^2] - |grad J|^2 is a parabola with
    its bottom at b* = E[R |s|^2] / E[|s|^2], where it is E[R |s|^2]^2 / E[|s|^2] below the one without a baseline."""
    world = toy()
    groups, prob_Y = world.groups(1)
    slope_W = world.slope(world.expected_reward())
    score_YW = each_gradient(world.learner(REINFORCE.patch(advantage=ones)), groups)
    square_Y, reward_Y = score_YW.square().sum(dim=1), world.reward_Y
    best = float(prob_Y @ (reward_Y * square_Y) / (prob_Y @ square_Y))
    mean = float(prob_Y @ reward_Y)
    found = {}
    for name, value in (("none", 0.0), ("1/2", 0.5), ("-2", -2.0), ("E[R]", mean), ("b*", best)):
        learner = world.learner(REINFORCE.patch(advantage=ConstantBaseline(value)))
        yield equal(f"b = {name}: the expected gradient is grad J", expected(learner, groups, prob_Y), slope_W)
        found[name] = variance(each_gradient(learner, groups), prob_Y)
        closed = prob_Y @ ((reward_Y - value).square() * square_Y) - slope_W.square().sum()
        yield equal(f"b = {name}: the variance", found[name], closed)
        yield Fact(f"variance with b = {name}", found[name])
    without = world.learner(REINFORCE)
    yield equal("b = 0 is no baseline", expected(without, groups, prob_Y), slope_W)
    reduction = (prob_Y @ (reward_Y * square_Y)).square() / (prob_Y @ square_Y)
    yield equal("variance saved by b*", found["none"] - found["b*"], reduction)
    for name, value in found.items():
        yield at_most(f"no baseline beats b*: {name}", found["b*"], value)
    yield at_least("a bad baseline is worse than none", found["-2"] / found["none"], 1.5)
    yield Fact("b*", best)
    yield Fact("share of the variance that b* saves", 1 - found["b*"] / found["none"])
    yield Fact("share that b = E[R] saves", 1 - found["E[R]"] / found["none"])


@claim(
    5,
    "group-baselines",
    "The group mean gives (1 - 1/G) of the gradient, leave-one-out all of it, the z-score no multiple of it",
    source="arXiv 2402.14740, section 3.2; arXiv 2402.03300, section 4.1.2; arXiv 2503.20783, section 3.1",
    compares="expected gradients over every group of G attempts with grad J",
)
def group_baselines() -> Iterator[Check | Fact]:
    """E[(R_i - mean_j R_j) s_i] = (1 - 1/G) grad J, because only R_i itself depends on y_i; leaving it out mends that.

    A standard deviation depends on y_i in no linear way. With 0/1 rewards the z-score still points along grad J of one
    problem, since A is a function of R alone; it weighs problems differently, so the sum over two of them turns.
    """
    for name, world, sizes in (("toy", toy(), (2, 3)), ("transformer", llama(), (2,))):
        slope_W = world.slope(world.expected_reward())
        for size in sizes:
            mean_W = expected_over(world, REINFORCE.patch(advantage=group_mean), size)
            yield equal(f"{name}, G = {size}: group mean = (1 - 1/G) grad J", mean_W, (1 - 1 / size) * slope_W)
            rest_W = expected_over(world, REINFORCE.patch(advantage=leave_one_out), size)
            yield equal(f"{name}, G = {size}: leave-one-out = grad J", rest_W, slope_W)
        for kind in (GroupZScore(std="sample"), GroupZScore(std="population")):
            scored_W = expected_over(world, REINFORCE.patch(advantage=kind), sizes[-1])
            label = f"{name}, z-score ({kind.std}), G = {sizes[-1]}"
            yield at_least(f"{label}: degrees off grad J", angle(scored_W, slope_W), 1.0)
            yield Fact(f"{label}: degrees off grad J", angle(scored_W, slope_W))
            yield Fact(f"{label}: length over |grad J|", float(scored_W.norm() / slope_W.norm()))
    yield from two_problems(6)


def two_problems(size: int) -> Iterator[Check | Fact]:
    """0/1 rewards, an easier and a harder problem: c_1 grad J_1 + c_2 grad J_2 with c_1 != c_2."""
    easy, hard = toy(limit=1), toy(limit=1, prompt=(1, 1))
    easy, hard = easy.rewarding(only(1)), hard.rewarding(only(0))
    total_W, true_W = [], []
    for name, world in (("easier", easy), ("harder", hard)):
        scored_W = expected_over(world, REINFORCE.patch(advantage=GroupZScore()), size)
        slope_W = world.slope(world.expected_reward())
        factor = float(scored_W @ slope_W / slope_W.square().sum())
        yield equal(f"0/1 rewards, {name} problem alone: a multiple of its grad J", scored_W, factor * slope_W)
        yield Fact(f"{name} problem: success rate", float(world.expected_reward().detach()))
        yield Fact(f"{name} problem: z-score's multiple of grad J", factor)
        total_W.append(scored_W)
        true_W.append(slope_W)
    turned = angle(total_W[0] + total_W[1], true_W[0] + true_W[1])
    yield at_least("0/1 rewards, both problems: degrees off grad J", turned, 1.0)
    yield Fact("0/1 rewards, both problems: degrees off grad J", turned)


def only(right: int, num: int = 3) -> Tensor:
    """Reward 1 for one response, 0 for the others."""
    return (torch.arange(num) == right).double()
