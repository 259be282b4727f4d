"""Claim 37: a teacher's log-ratio as advantage descends the KL of the states visited, and no more than that."""

from __future__ import annotations

from collections.abc import Iterator

from upslope.algo.family import REINFORCE
from upslope.algo.more_advantages import teacher_gap
from upslope.algo.surrogate import ImportanceRatio
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, vanishes
from upslope.prove.expect import expected, rise
from upslope.prove.penalty import kl_of_responses, kl_of_states
from upslope.prove.world import World, toy
from upslope.types import given

DISTILL = REINFORCE.patch(advantage=teacher_gap, surrogate=ImportanceRatio())
"""``distill``, summed over an attempt: its token mean would divide by lengths, which tokens change."""


@claim(
    37,
    "distillation",
    "log teacher - log pi_old as advantage has the gradient of minus the KL to the teacher at the states visited",
    source="thinkingmachines.ai, On-Policy Distillation (2025)",
    compares="expected gradients with the slope of KLs summed over all states; advantages by hand; steps of a learner",
)
def distillation() -> Iterator[Check | Fact]:
    """E[sum_t (log T - log pi)(y_t) grad log pi(y_t)] = -sum_s d(s) grad KL(pi(. | s) || T(. | s)), since at a state
    E[grad log pi] = 0. The KL of whole responses has one more term, how d itself changes, which no token is told of."""
    world = toy()
    groups, prob_Y = world.groups(1)
    for name, teacher in (("near", world.moved(0.3, seed=4)), ("far", world.moved(1.0, seed=4))):
        learner = world.learner(DISTILL, reference=teacher)
        gap_NT = given(learner.prepare(groups).advantage_NT, "advantage_NT")
        by_hand_YT = (teacher.logp_YT() - world.logp_YT()).detach()
        yield equal(f"{name}: every token's advantage", gap_NT, by_hand_YT)
        found_W = expected(learner, groups, prob_Y)
        yield equal(f"{name}: minus the KL's slope", found_W, -world.slope(kl_of_states(world, teacher)))
        kl = kl_of_responses(world, teacher)
        yield equal(f"{name}: in value, the KL of responses", kl_of_states(world, teacher).detach(), kl.detach())
        yield at_least(f"{name}: degrees off the slope of the KL of responses", angle(found_W, -world.slope(kl)), 0.5)
        yield Fact(f"{name}: KL of responses, nats", float(kl.detach()))
    same = expected(world.learner(DISTILL, reference=world), groups, prob_Y)
    yield vanishes("a teacher that agrees", same)
    yield from descended(world, world.moved(1.0, seed=4))


def descended(world: World, teacher: World) -> Iterator[Check | Fact]:
    """Small exact steps: the KL falls by what the slope foretells, to first order."""
    before = kl_of_responses(world, teacher).detach()
    groups, prob_Y = world.groups(1)
    learner = world.learner(DISTILL, reference=teacher)
    step_W = 1e-5 * expected(learner, groups, prob_Y)
    foretold = float(world.slope(kl_of_responses(world, teacher)) @ step_W)
    found = float(kl_of_responses(world.stepped(step_W), teacher).detach() - before)
    why = "a finite step: the second order is 1e-5 of it"
    yield equal("a small step: how much the KL falls", found, foretold, tolerance=1e-3, why=why)
    yield at_least("and falls it does", -found, 0.0)
    yield Fact("norm of the slope", float(rise(learner).norm()))
