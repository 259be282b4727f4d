"""Claim 23: what a critic's loss comes to rest at, how its clip works, and whose weights it pulls at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import GAE
from upslope.algo.critic import LearnedCritic, OwnCopy, SharedTrunk
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored
from upslope.algo.recipe import Recipe
from upslope.learn.bound import BoundLearner
from upslope.learn.prepare import to_batch
from upslope.prove.claim import Check, Fact, at_least, claim, equal, vanishes
from upslope.prove.expect import prepared, rise
from upslope.prove.penalty import visits
from upslope.prove.values import PLAIN_PPO, exact_values, judged_by
from upslope.prove.world import Prefix, World, toy
from upslope.types import Group, Problem, Rollout, given


@claim(
    23,
    "critic-fixed-point",
    "The critic's loss comes to rest at V alone, pulls towards it everywhere else, and its clip never hides a mistake",
    source="arXiv 1506.02438, section 5; PPO's reference code (clipped value loss); Sutton & Barto 2018, section 9.3",
    compares="the critic's expected gradient with d(s) (V(s) - E[G|s]); single values with the clip's cases by hand",
)
def critic_fixed_point() -> Iterator[Check | Fact]:
    """E[sum_t (V(s_t) - G_t)^2 / 2] has the gradient d(s) (V(s) - E[G | s]) by V(s), d(s) the chance to be at s. The
    targets are rewards to go, in units of reward, whatever is done to the advantages."""
    world = toy()
    exact, met = exact_values(world), visits(world)
    prob_S = torch.stack(list(met.values()))
    for advantage in (GAE(1.0, 1.0, whiten=False), GAE(1.0, 1.0, whiten=True)):
        recipe = PLAIN_PPO.patch(advantage=advantage)
        name = "whitened advantages" if advantage.whiten else "plain advantages"
        yield vanishes(f"{name}: at the exact V the expected gradient", pull(world, recipe, exact))
        for shift in (0.5, -2.0):
            there = {prefix: value + shift * (1 + len(prefix)) for prefix, value in exact.items()}
            off_S = torch.stack(list(there.values())) - torch.stack(list(exact.values()))
            yield equal(
                f"{name}, off by {shift} and more: d(s) (V - E[G|s])", pull(world, recipe, there), prob_S * off_S
            )
    yield from lambdas(world, exact)
    yield from clipped_values()
    yield from warming_up(world, exact)
    yield from shared(world)


def pull(world: World, recipe: Recipe, values: dict[Prefix, Tensor]) -> Tensor:
    """The expected gradient of the critic's loss by the value of every state, for a sum over tokens; shape S."""
    groups, prob_Y = world.groups(1)
    learner = judged_by(world, recipe, values)
    batch = prepared(learner, groups)
    batch = replace(batch, value_weight_NT=prob_Y[:, None].expand_as(batch.mask_NT))
    learner.gradient(Objective(recipe), batch)
    assert learner.critic is not None
    return given(next(iter(learner.critic.optimizer.masters.values())).grad, "grad").clone()


def lambdas(world: World, exact: dict[Prefix, Tensor]) -> Iterator[Check | Fact]:
    """The advantage's lambda is no business of the targets: rewards to go for any of them."""
    wrong = {prefix: value + 1.0 for prefix, value in exact.items()}
    groups, _ = world.groups(1)
    for lam in (0.0, 0.95, 1.0):
        batch = judged_by(world, PLAIN_PPO.patch(advantage=GAE(1.0, lam)), wrong).prepare(groups)
        outcome_NT = torch.where(batch.mask_NT, world.reward_Y[:, None], 0)
        yield equal(
            f"targets with an advantage of lambda {lam}: rewards to go", given(batch.return_NT, "return_NT"), outcome_NT
        )


def clipped_values() -> Iterator[Check | Fact]:
    """max((V - G)^2, (clip(V) - G)^2) / 2 with V_old = 3 and a range of 0.2, told as differences from 3. A value
    that moved beyond its range towards G has no gradient left; one that moved away from G has all of it."""
    value = torch.tensor([0.1, 0.5, -0.5, 0.1, 0.5, -0.5], dtype=torch.float64)
    target = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    near = torch.tensor([0.1, 0.2, -0.2, 0.1, 0.2, -0.2], dtype=torch.float64)
    lives = torch.tensor([1, 0, 1, 1, 1, 0], dtype=torch.float64)
    farther = torch.where(lives.bool(), value, near)
    for slot, share in ((OwnCopy(clip=0.2), 1.0), (SharedTrunk(clip=0.2, weight=0.3), 0.3)):
        loss, slope = one_value(3 + value, 3 + target, slot)
        yield equal(f"{type(slot).__name__}: clipped loss", loss, share * (farther - target).square() / 2)
        yield equal(f"{type(slot).__name__}: its gradient", slope, share * (value - target) * lives)


def one_value(value: Tensor, target: Tensor, slot: LearnedCritic) -> tuple[Tensor, Tensor]:
    """(loss, its gradient by V) of attempts of one token whose value was 3 before the update."""
    num = len(value)
    rollouts = tuple(Rollout("grid", i, (1,), (2,), (True,), (0.0,), 0, "stop", "") for i in range(num))
    found: list[tuple[Tensor, Tensor]] = []
    for n in range(num):
        batch = replace(
            to_batch([Group(Problem("grid", ()), rollouts[n : n + 1])], torch.device("cpu"), torch.float64),
            value_NT=torch.full((1, 1), 3.0, dtype=torch.float64),
            return_NT=target[n].reshape(1, 1),
            advantage_NT=torch.zeros(1, 1, dtype=torch.float64),
            old_logp_NT=torch.zeros(1, 1, dtype=torch.float64),
            weight_NT=torch.ones(1, 1, dtype=torch.float64),
            value_weight_NT=torch.ones(1, 1, dtype=torch.float64),
        )
        value_NT = value[n].reshape(1, 1).clone().requires_grad_()
        zero_NT = torch.zeros(1, 1, dtype=torch.float64)
        losses, _ = Objective(PLAIN_PPO.patch(critic=slot))(Scored(zero_NT, zero_NT, None, value_NT), batch)
        loss = given(losses.value, "value")
        found.append((loss.detach(), torch.autograd.grad(loss, value_NT)[0].flatten()[0]))
    return torch.stack([loss for loss, _ in found]), torch.stack([slope for _, slope in found])


def warming_up(world: World, exact: dict[Prefix, Tensor]) -> Iterator[Check | Fact]:
    """While it warms up, every value goes towards V and the policy stays where it is, bit for bit; then both move."""
    groups, _ = world.groups(1)
    wrong = {prefix: value + 1.0 for prefix, value in exact.items()}
    learner = judged_by(world, PLAIN_PPO.patch(critic=OwnCopy(clip=0.0, warmup=2)), wrong)
    assert learner.critic is not None
    learner.critic.optimizer.num_done = 0
    goal_S = torch.stack(list(exact.values()))
    (value_S,) = learner.critic.optimizer.masters.values()
    for update in (1, 2):
        policy, before_S = weights(learner), value_S.detach().clone()
        turn(learner, groups)
        yield vanishes(f"warm-up, update {update}: the policy moves by", weights(learner) - policy)
        nearer_S = (before_S - goal_S).abs() - (value_S.detach() - goal_S).abs()
        yield at_least(f"warm-up, update {update}: every value comes nearer to V by", float(nearer_S.min()), 1e-3)
    policy = weights(learner)
    turn(learner, groups)
    yield at_least("after the warm-up: the policy moves by", float((weights(learner) - policy).norm()), 1e-3)


def turn(learner: BoundLearner, groups: list[Group]) -> None:
    """One update of a run."""
    learner.recipe.update(learner, learner.objective, prepared(learner, groups))


def weights(learner: BoundLearner) -> Tensor:
    """All weights of the policy, W."""
    return torch.cat([m.detach().flatten() for m in learner.optimizer.masters.values()])


def shared(world: World) -> Iterator[Check | Fact]:
    """On the policy's own trunk the critic's loss pulls at the policy's weights, ``weight`` times: with no advantage
    anywhere that is the whole gradient."""
    groups, _ = world.groups(1)
    for weight in (0.1, 0.5):
        learner = world.learner(PLAIN_PPO.patch(critic=SharedTrunk(clip=0.0, weight=weight)))
        assert learner.critic is not None
        batch = prepared(learner, groups)
        batch = replace(batch, advantage_NT=torch.zeros_like(given(batch.advantage_NT, "advantage_NT")))
        learner.gradient(learner.objective, batch)
        found_W, head = rise(learner), learner.critic.model.head
        at_head = given(head.weight.grad, "grad").flatten().clone()
        loss = torch.zeros((), dtype=torch.float64)
        for response, reward in zip(world.responses, world.reward_Y, strict=True):
            ids = torch.tensor([world.prompt + response[:-1]])
            hidden_TD = learner.policy.model.base_model(ids).last_hidden_state[0, len(world.prompt) - 1 :]
            loss = loss + ((hidden_TD @ head.weight[0] + head.bias - reward).square() / 2).sum()
        loss = weight * loss / world.length_Y.sum()
        masters = list(learner.optimizer.masters.values())
        slopes = torch.autograd.grad(loss, [*masters, head.weight], allow_unused=True)
        by_hand = [torch.zeros_like(m) if s is None else s for s, m in zip(slopes, masters, strict=False)]
        yield equal(
            f"shared trunk, weight {weight}: its pull at the policy",
            -found_W,
            torch.cat([s.flatten() for s in by_hand]),
        )
        yield equal(
            f"shared trunk, weight {weight}: its pull at the head", at_head, given(slopes[-1], "grad").flatten()
        )
