"""Claim 9: estimators of the KL to a reference, their values and what each does to the gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.advantage import leave_one_out
from upslope.algo.family import REINFORCE
from upslope.algo.recipe import show
from upslope.algo.regulariser import K1, K2, K3, ExactKL, SampledPenalty
from upslope.algo.reuse import Reuse
from upslope.model.distribution import divergence
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal, gap, vanishes
from upslope.prove.expect import expected, gradient as gradient_of, in_expectation, prepared
from upslope.prove.world import Prefix, World, stand_at, toy

TWICE = Reuse(epochs=2)
"""Two updates a batch, so that the batch keeps log pi_old and the learner may move before its gradient."""


def kl_of_responses(world: World, reference: World) -> Tensor:
    """KL(p || q) = sum_y p(y) (log p(y) - log q(y)), with gradient."""
    logp_Y, logq_Y = world.logp_YT().sum(dim=1), reference.logp_YT().sum(dim=1).detach()
    return (logp_Y.exp() * (logp_Y - logq_Y)).sum()


def kl_of_states(world: World, reference: World, *, drawn: World | None = None, reverse: bool = False) -> Tensor:
    """sum_s p(s) KL(pi(.|s) || ref(.|s)) with gradient through the KL alone: which states are met is held fixed, at
    what ``drawn`` (the world itself) meets. ``reverse``: KL(ref || pi)."""
    now, fixed = world.states(), reference.states()
    total = torch.zeros((), dtype=torch.float64)
    for prefix, prob in visits(drawn or world).items():
        pair = (now[prefix], fixed[prefix].detach())
        p, q = pair[::-1] if reverse else pair
        total = total + prob * (p.exp() * (p - q)).sum()
    return total


def visits(world: World) -> dict[Prefix, Tensor]:
    """The probability of meeting every state, constant."""
    states = world.states()
    found = {}
    for prefix in states:
        steps = [states[prefix[:t]][prefix[t]] for t in range(len(prefix))]
        found[prefix] = torch.stack(steps).sum().exp().detach() if steps else torch.ones((), dtype=torch.float64)
    return found


@claim(
    9,
    "kl-penalty",
    "KL >= 0; as values k1 and k3 are unbiased, k2 not; in the loss their gradients differ; k1 in the reward is exact",
    source="Schulman 2020, Approximating KL divergence; arXiv 1909.08593, equation 2; arXiv 2512.02556",
    compares="expected costs and expected gradients with sums over all responses and states, on and off policy",
)
def kl_penalty() -> Iterator[Check | Fact]:
    """Values first: E[sum_t k1] = E[sum_t k3] = KL(p || q) = sum_s p(s) KL_s. Gradients: see the parts."""
    world = toy()
    reference = world.moved(1.0, seed=4)
    yield from values(world, world.moved(0.1, seed=4), "near")
    yield from values(world, reference, "far")
    yield from in_the_loss(world, reference)
    yield from off_policy(world, reference)
    yield from in_the_reward(world, reference)


def values(world: World, reference: World, where: str) -> Iterator[Check | Fact]:
    """What the estimators say on average, and how much they scatter."""
    kl = kl_of_responses(world, reference).detach()
    now, fixed = world.states(), reference.states()
    kl_R = divergence(torch.stack(list(now.values())), torch.stack([fixed[p] for p in now]))
    yield at_most(f"{where}: KL >= 0 at every state", -kl_R, 0.0)
    yield at_least(f"{where}: KL of responses", float(kl), 1e-4)
    yield equal(f"{where}: KL of responses is the KL of states as they are met", kl_of_states(world, reference), kl)
    groups, prob_Y = world.groups(1)
    spreads = {}
    for name, slot in (
        ("k1", K1(1.0)),
        ("k2", K2(1.0, place="reward")),
        ("k3", K3(1.0, place="reward")),
        ("exact", ExactKL(1.0, place="reward")),
    ):
        learner = world.learner(REINFORCE.patch(regulariser=slot), reference=reference)
        cost_Y = slot.cost(learner.prepare(groups)).sum(dim=1)
        mean = float(prob_Y @ cost_Y)
        spreads[name] = float(prob_Y @ (cost_Y - mean).square())
        if name == "k2":
            yield at_least(f"{where}, k2: biased by, of the KL", abs(mean / float(kl) - 1), 0.01)
            yield Fact(f"{where}, k2: biased by, of the KL", mean / float(kl) - 1)
        else:
            yield equal(f"{where}, {name}: expectation is the KL", mean, kl)
        yield Fact(f"{where}, {name}: variance a response", spreads[name])
    yield at_most(f"{where}: k3 scatters less than k1", spreads["k3"], spreads["k1"])
    yield Fact(f"{where}: KL of responses, nats", float(kl))


def penalty_gradient(slot: SampledPenalty | ExactKL, drawn: World, now: World, reference: World) -> Tensor:
    """The expected gradient of coefficient * k in the loss, alone: all rewards are 0. Attempts come from ``drawn``;
    the learner stands at ``now``."""
    silent = drawn.rewarding(torch.zeros_like(drawn.reward_Y))
    groups, prob_Y = silent.groups(1)
    learner = silent.learner(REINFORCE.patch(regulariser=slot, reuse=TWICE), reference=reference)
    batch = in_expectation(prepared(learner, groups), prob_Y)
    stand_at(learner, now)
    return -gradient_of(learner, batch)


def in_the_loss(world: World, reference: World) -> Iterator[Check | Fact]:
    """On policy: k1 none at all, k2 that of sum_s p(s) KL_s, k3 that of sum_s p(s) KL(ref || pi)_s. None is that of
    the KL of responses, which also counts that other states would be met."""
    states_W = world.slope(kl_of_states(world, reference))
    whole_W = world.slope(kl_of_responses(world, reference))
    reverse_W = world.slope(kl_of_states(world, reference, reverse=True))
    found = {
        name: penalty_gradient(slot, world, world, reference)
        for name, slot in (
            ("k1", K1(1.0, place="loss")),
            ("k2", K2(1.0)),
            ("k3", K3(1.0)),
            ("exact", ExactKL(1.0)),
            ("k1 weighted", K1(1.0, place="loss", weighted=True)),
            ("k2 weighted", K2(1.0, weighted=True)),
            ("k3 weighted", K3(1.0, weighted=True)),
        )
    }
    yield vanishes("on policy, k1 in the loss: no gradient", found["k1"])
    for name in ("k2", "exact", "k1 weighted", "k3 weighted"):
        yield equal(f"on policy, {name} in the loss: the KL of every state", found[name], states_W)
    yield equal("on policy, k3 in the loss: the KL of the other direction", found["k3"], reverse_W)
    for name, vector_W in (("k3", found["k3"]), ("k2 weighted", found["k2 weighted"])):
        yield at_least(f"on policy, {name} in the loss: off the KL of every state by", gap(vector_W, states_W), 0.01)
        yield Fact(f"on policy, {name}: off the gradient of the KL of states by", gap(vector_W, states_W))
    yield at_least("the KL of states is off the KL of responses by", gap(states_W, whole_W), 0.01)
    for name in ("k2", "k3", "k2 weighted"):
        yield Fact(f"on policy, {name}: degrees off the KL of responses", angle(found[name], whole_W))


def off_policy(world: World, reference: World) -> Iterator[Check | Fact]:
    """After the policy moved: weighted by r_t (with gradient) k1 and k3 have the gradient of the KL at the states that
    the old policy met; plain, none has."""
    now = world.moved(0.5)
    states_W = now.slope(kl_of_states(now, reference, drawn=world))
    for name, slot in (
        ("k1 weighted", K1(1.0, place="loss", weighted=True)),
        ("k3 weighted", K3(1.0, weighted=True)),
        ("exact", ExactKL(1.0)),
    ):
        found_W = penalty_gradient(slot, world, now, reference)
        yield equal(f"off policy, {name}: the KL of the states met", found_W, states_W)
    for name, plain in (
        ("k1", K1(1.0, place="loss")),
        ("k2", K2(1.0)),
        ("k3", K3(1.0)),
        ("k2 weighted", K2(1.0, weighted=True)),
    ):
        off = gap(penalty_gradient(plain, world, now, reference), states_W)
        yield at_least(f"off policy, {name}: off by", off, 0.01)
        yield Fact(f"off policy, {name}: off the gradient of the KL of states by", off)


def in_the_reward(world: World, reference: World) -> Iterator[Check | Fact]:
    """E[(R - beta k1) grad log p] = grad (J - beta KL(p || q)), whole responses; also through a group."""
    beta = 0.3
    true_W = world.slope(world.expected_reward() - beta * kl_of_responses(world, reference))
    paid = REINFORCE.patch(regulariser=K1(beta))
    for size, recipe in ((1, paid), (2, paid), (2, paid.patch(advantage=leave_one_out))):
        found_W = expected(world.learner(recipe, reference=reference), *world.groups(size))
        name = show(recipe.advantage)
        yield equal(f"k1 in the reward, {name}, G = {size}: grad (J - beta KL)", found_W, true_W)
    for name, slot in (("k2", K2(beta, place="reward")), ("k3", K3(beta, place="reward"))):
        learner = world.learner(REINFORCE.patch(regulariser=slot), reference=reference)
        off = gap(expected(learner, *world.groups(1)), true_W)
        yield at_least(f"{name} in the reward: off by", off, 0.01)
        yield Fact(f"{name} in the reward: off grad (J - beta KL) by", off)
    # What the exact KL misses in the loss is what it gives in the reward: that other states would be met.
    silent = world.rewarding(torch.zeros_like(world.reward_Y))
    met = silent.learner(REINFORCE.patch(regulariser=ExactKL(1.0, place="reward")), reference=reference)
    both_W = penalty_gradient(ExactKL(1.0), world, world, reference) - expected(met, *silent.groups(1))
    yield equal(
        "exact KL, in the loss and in the reward: grad KL", both_W, world.slope(kl_of_responses(world, reference))
    )
