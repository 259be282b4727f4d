"""Claim 27: the reward for staying undecided."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.family import REINFORCE
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import EntropyBonus
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal
from upslope.prove.expect import expected_over
from upslope.prove.penalty import visits
from upslope.prove.world import World, llama, toy


def entropy_of_states(world: World) -> Tensor:
    """sum_s p(s) H(pi(.|s)), which states are met held fixed, with gradient through H."""
    total = torch.zeros((), dtype=torch.float64)
    for logp_V, prob in zip(world.states().values(), visits(world).values(), strict=True):
        total = total - prob * (logp_V.exp() * logp_V).sum()
    return total


def entropy_of_responses(world: World) -> Tensor:
    """-sum_y p(y) log p(y), with gradient."""
    prob_Y = world.prob_Y()
    return -(prob_Y * prob_Y.log()).sum()


@claim(
    27,
    "entropy-bonus",
    "The bonus raises the entropy of the states met, exactly; that other states would be met it leaves out",
    source="Williams & Peng 1991; arXiv 1602.01783, section 4",
    compares="the expected gradient of the bonus with the gradient of the states' entropy by hand",
)
def entropy_bonus() -> Iterator[Check | Fact]:
    """E[sum_t c grad H(pi(.|s_t))] = c grad sum_s p(s) H_s with p(s) fixed, and it is added to grad J. The entropy of
    whole responses is the same sum, but its gradient moves p(s) too."""
    for name, world in (("toy", toy()), ("transformer", llama())):
        bonus: Recipe = REINFORCE.patch(regulariser=EntropyBonus(0.5))
        states_W = world.slope(entropy_of_states(world))
        silent = world.rewarding(torch.zeros_like(world.reward_Y))
        found_W = expected_over(silent, bonus)
        yield equal(f"{name}: the bonus alone: 1/2 of the gradient of the states' entropy", found_W, states_W / 2)
        both_W = expected_over(world, bonus)
        yield equal(
            f"{name}: with a reward: grad J on top", both_W, world.slope(world.expected_reward()) + states_W / 2
        )
        value = entropy_of_states(world)
        yield equal(
            f"{name}: entropy of responses is that of states as they are met", entropy_of_responses(world), value
        )
        risen = world.stepped(1e-3 * found_W / found_W.norm())
        fixed = sum(
            float(p) * float(-(now.exp() * now).sum().detach())
            for p, now in zip(visits(world).values(), risen.states().values(), strict=True)
        )
        yield at_least(f"{name}: a step along it raises the states' entropy by", fixed - float(value.detach()), 1e-5)
        whole_W = world.slope(entropy_of_responses(world))
        yield at_least(f"{name}: degrees off the gradient of the responses' entropy", angle(found_W, whole_W), 0.1)
        yield Fact(f"{name}: degrees off the gradient of the responses' entropy", angle(found_W, whole_W))
        yield Fact(f"{name}: entropy of responses, nats", float(value.detach()))
