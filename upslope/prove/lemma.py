"""Claim 24: what another policy earns, told from this policy's advantages; and how good a surrogate that makes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.advantage import GAE
from upslope.algo.surrogate import ImportanceRatio
from upslope.prove.claim import Check, Fact, at_least, at_most, claim, equal
from upslope.prove.expect import gradient, in_expectation, loss, prepared
from upslope.prove.penalty import visits
from upslope.prove.values import PLAIN_PPO, exact_values, judged_by
from upslope.prove.world import World, stand_at, toy
from upslope.types import given

SURROGATE = PLAIN_PPO.patch(surrogate=ImportanceRatio(), advantage=GAE(1.0, 0.0, whiten=False))
"""sum_t r_t A_t with A from the exact V, one step of it: Q(s, y) - V(s)."""


@claim(
    24,
    "performance-difference",
    "J(pi') - J(pi) is what pi' earns in pi's advantages; with pi's own states it is that up to second order",
    source="Kakade & Langford 2002, lemma 6.1; arXiv 1502.05477, equations 1 to 3 and theorem 1",
    compares="advantages and surrogate of the learner with differences of J, for policies nearer and nearer",
)
def performance_difference() -> Iterator[Check | Fact]:
    """J(pi') - J(pi) = E_{y ~ pi'}[sum_t A(s_t, y_t)], A of pi, for any two policies. With the states that pi meets,
    L = sum_s d(s) sum_v pi'(v|s) A(s, v) = E_{y ~ pi}[sum_t r_t A_t]: value and gradient are right at pi, and the gap
    J(pi') - J(pi) - L is of second order."""
    world = toy()
    groups, prob_Y = world.groups(1)
    values = exact_values(world)
    here = world.expected_reward().detach()
    learner = judged_by(world, SURROGATE, values)
    total_Y = given(learner.prepare(groups).advantage_NT, "advantage_NT").sum(dim=1)
    for drift in (0.1, 1.5):
        there = world.moved(drift)
        earned = there.prob_Y().detach() @ total_Y
        yield equal(f"drift {drift}: J' - J in advantages of pi", earned, there.expected_reward().detach() - here)
    yield equal("and what pi earns in its own is nothing (added to 1)", 1 + prob_Y @ total_Y, 1.0)
    yield from surrogate_gap(world)


def surrogate(world: World, now: World) -> tuple[float, Tensor]:
    """(L, its gradient) where ``now`` stands, from attempts and the exact V of ``world``."""
    groups, prob_Y = world.groups(1)
    learner = judged_by(world, SURROGATE, exact_values(world))
    batch = in_expectation(prepared(learner, groups), prob_Y)
    stand_at(learner, now)
    return -loss(learner, batch), gradient(learner, batch)


def surrogate_gap(world: World) -> Iterator[Check | Fact]:
    """L by hand; the gap of L and of its gradient, at half the drift each time; and a bound by hand: with a = max_s
    TV(pi, pi') and e = max |A|, |J' - J - L| <= 2 a^2 e T (T - 1)."""
    here = world.expected_reward().detach()
    values = exact_values(world)
    met, states = visits(world), {p: logp_V.detach().exp() for p, logp_V in world.states().items()}
    reward = dict(zip(world.responses, world.reward_Y, strict=True))
    after = {p: [(*p, v) for v in range(world.policy.vocabulary)] for p in values}
    advantage = {
        p: torch.stack([reward[a] if a in reward else values[a] for a in after[p]]) - values[p] for p in values
    }
    gaps, turned = [], []
    for drift in (0.04, 0.02, 0.01, 1.5):
        now = world.moved(drift)
        then = {p: logp_V.detach().exp() for p, logp_V in now.states().items()}
        found, slope_W = surrogate(world, now)
        by_hand = torch.stack([met[p] * (then[p] @ advantage[p]) for p in values]).sum()
        yield equal(f"drift {drift}: L over the states that pi meets", found, by_hand)
        truth_W = now.slope(now.expected_reward())
        off = float(now.expected_reward().detach() - here) - found
        gaps.append(abs(off))
        turned.append(float((slope_W - truth_W).norm() / truth_W.norm()))
        farthest = max(float((then[p] - states[p]).abs().sum() / 2) for p in values)
        largest = max(float(a.abs().max()) for a in advantage.values())
        bound = 2 * farthest**2 * largest * world.limit * (world.limit - 1)
        yield at_most(f"drift {drift}: the gap is within its bound", abs(off), bound)
        yield Fact(f"drift {drift}: J' - J", float(now.expected_reward().detach() - here))
        yield Fact(f"drift {drift}: L", found)
        yield Fact(f"drift {drift}: L's gradient is off grad J by", turned[-1])
    for i, drift in ((0, 0.04), (1, 0.02)):
        yield at_least(f"from drift {drift} to its half the gap of L falls by", gaps[i] / gaps[i + 1], 3.8)
        yield at_most(f"from drift {drift} to its half the gap of L falls by no more than", gaps[i] / gaps[i + 1], 4.2)
        yield at_least(f"from drift {drift} to its half its gradient's gap falls by", turned[i] / turned[i + 1], 1.9)
        yield Fact(f"from drift {drift} to its half the gap of L falls by", gaps[i] / gaps[i + 1])
    yield equal("no drift: L's gradient is grad J", surrogate(world, world)[1], world.slope(world.expected_reward()))
