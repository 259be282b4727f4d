"""Claims 11 and 12: advantages from a critic, from a critic that knows nothing, and without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.algo.advantage import GAE, ConstantBaseline, group_mean, spread
from upslope.algo.aggregate import sequence_sum
from upslope.algo.family import GRPO, PPO, REINFORCE
from upslope.algo.regulariser import K1, no_penalty
from upslope.algo.returns import generalised_advantage
from upslope.algo.sample import Attempts
from upslope.learn.critic_learner import CriticLearner
from upslope.model.policy import Policy
from upslope.model.states import States
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, gap
from upslope.prove.expect import expected_over, gradient, in_expectation, prepared
from upslope.prove.world import World, stand_at, toy
from upslope.types import Batch, Group, Problem, given

BARE = PPO.patch(regulariser=no_penalty, aggregate=sequence_sum)


@claim(
    11,
    "gae",
    "GAE: lambda 1 is return minus value, lambda 0 the TD error, else a sum of them; a constant critic is a baseline",
    source="arXiv 1506.02438, equations 11 to 18; arXiv 1707.06347, equation 11",
    compares="advantages of a learner with a critic with double sums by hand; expected gradients with grad J",
)
def gae() -> Iterator[Check | Fact]:
    """delta_t = r_t + gamma V_{t+1} - V_t and A_t = sum_k (gamma lam)^k delta_{t+k}; V after the last token is 0."""
    world = toy()
    reference = world.moved(1.0, seed=4)
    groups, _ = world.groups(1)
    for gamma, lam in ((1.0, 1.0), (1.0, 0.0), (0.9, 1.0), (0.9, 0.0), (0.95, 0.9)):
        recipe = BARE.patch(advantage=GAE(gamma, lam, whiten=False), regulariser=K1(0.3))
        batch = world.learner(recipe, reference=reference).prepare(groups)
        found_NT = given(batch.advantage_NT, "advantage_NT")
        label = f"gamma {gamma}, lambda {lam}"
        yield equal(f"{label}: sum of TD errors", found_NT, by_hand(batch, gamma, lam))
        if lam == 1:
            value_NT = given(batch.value_NT, "value_NT")
            yield equal(
                f"{label}: reward to go minus value", found_NT, (to_go(batch, gamma) - value_NT) * batch.mask_NT
            )
            yield equal(
                f"{label}: the critic's target is the reward to go",
                given(batch.return_NT, "return_NT"),
                to_go(batch, gamma),
            )
        if lam == 0:
            yield equal(f"{label}: the TD error alone", found_NT, td_errors(batch, gamma))
    yield from stepped_over()
    yield from with_a_critic(world)


def td_errors(batch: Batch, gamma: float) -> Tensor:
    """r_t + gamma V_{t+1} - V_t over unbroken responses."""
    reward_NT, value_NT = given(batch.reward_NT, "reward_NT"), given(batch.value_NT, "value_NT")
    next_NT = torch.cat([value_NT[:, 1:], torch.zeros_like(value_NT[:, :1])], dim=1)
    return (reward_NT + gamma * next_NT - value_NT) * batch.mask_NT


def by_hand(batch: Batch, gamma: float, lam: float) -> Tensor:
    """sum_k (gamma lam)^k delta_{t+k}, equation 16, term by term."""
    delta_NT = td_errors(batch, gamma)
    found = torch.zeros_like(delta_NT)
    for t in range(delta_NT.shape[1]):
        for k in range(delta_NT.shape[1] - t):
            found[:, t] += (gamma * lam) ** k * delta_NT[:, t + k]
    return found * batch.mask_NT


def to_go(batch: Batch, gamma: float) -> Tensor:
    """sum_k gamma^k r_{t+k}."""
    reward_NT = given(batch.reward_NT, "reward_NT")
    found = torch.zeros_like(reward_NT)
    for t in range(reward_NT.shape[1]):
        for k in range(reward_NT.shape[1] - t):
            found[:, t] += gamma**k * reward_NT[:, t + k]
    return found * batch.mask_NT


def stepped_over() -> Iterator[Check | Fact]:
    """A token that the policy did not choose is no step: the rest have the advantages of the row without it."""
    reward_NT = torch.tensor([[0.1, 0.0, -0.2, 1.0]], dtype=torch.float64)
    value_NT = torch.tensor([[0.5, 0.0, 0.3, -0.4]], dtype=torch.float64)
    mask_NT = torch.tensor([[True, False, True, True]])
    dense_NT = torch.ones_like(mask_NT)[:, :3]
    with_hole_NT = generalised_advantage(reward_NT, value_NT, mask_NT, 0.9, 0.8)
    without_NT = generalised_advantage(reward_NT[mask_NT][None], value_NT[mask_NT][None], dense_NT, 0.9, 0.8)
    yield equal("a token not chosen is stepped over", with_hole_NT[mask_NT], without_NT[0])


def with_a_critic(world: World) -> Iterator[Check | Fact]:
    """lambda = 1: any critic is a baseline that depends on the state alone, so the gradient is grad J; a constant one
    makes PPO's first step REINFORCE with that constant. lambda < 1 believes the critic, and is as wrong as it is."""
    slope_W = world.slope(world.expected_reward())
    judging = BARE.patch(advantage=GAE(1.0, 1.0, whiten=False))
    yield equal("lambda 1, a critic of random weights: grad J", expected_over(world, judging), slope_W)
    for value in (0.7, -0.2):
        found_W = expected_over(world, judging, 2, value=value)
        baseline_W = expected_over(world, REINFORCE.patch(advantage=ConstantBaseline(value)), 2)
        yield equal(f"lambda 1, a critic that says {value}: REINFORCE with that baseline", found_W, baseline_W)
    groups, _ = world.groups(1)
    constant = world.learner(judging, value=0.7)
    based = world.learner(REINFORCE.patch(advantage=ConstantBaseline(0.7)))
    uneven = groups[::2]  # a batch, not an expectation, in which baselines do not cancel
    yield equal(
        "and batch by batch", gradient(constant, prepared(constant, uneven)), gradient(based, prepared(based, uneven))
    )
    for lam in (0.95, 0.0):
        off_W = expected_over(world, BARE.patch(advantage=GAE(1.0, lam, whiten=False)))
        yield at_least(f"lambda {lam}, a critic of random weights: off grad J by", gap(off_W, slope_W), 1e-3)
        yield Fact(f"lambda {lam}, a critic of random weights: off grad J by", gap(off_W, slope_W))
        yield Fact(f"lambda {lam}, a critic of random weights: degrees off", angle(off_W, slope_W))


@dataclass
class GroupMeanCritic(CriticLearner):
    """Says the mean reward of the attempt's group before every token, in place of what its network would say."""

    mean_of: dict[int, float]
    """By the identity of an attempt."""

    @staticmethod
    def of(critic: CriticLearner, groups: list[Group]) -> GroupMeanCritic:
        means = {id(r): sum(s.reward for s in g.rollouts) / len(g.rollouts) for g in groups for r in g.rollouts}
        return GroupMeanCritic(critic.slot, critic.model, critic.optimizer, means)

    def values(self, batch: Batch, policy: Policy, states: States | None) -> Tensor:
        mean_N = torch.tensor([self.mean_of[id(r)] for r in batch.rollouts], dtype=torch.float64)
        return spread(mean_N, batch.mask_NT)


@claim(
    12,
    "grpo-is-ppo",
    "GRPO is PPO with the group's mean in place of the critic",
    source="arXiv 2402.03300, section 4.1",
    compares="gradients of PPO (lambda 1, a critic that says the group mean) and of GRPO, at and after the first step",
)
def grpo_is_ppo() -> Iterator[Check | Fact]:
    """With V = mean_j R_j at every state and lambda = 1: A_t = R - mean. Same penalty, aggregate and clip. GRPO's
    division by the deviation comes on top: it is the same comparison in other units, a factor a group."""
    world = toy()
    reference = world.moved(1.0, seed=4)
    drawn, prob_P = world.groups(2)
    groups = [Group(Problem(f"{i}", ()), tuple(replace(r) for r in g.rollouts)) for i, g in enumerate(drawn)]
    grpo_recipe = GRPO.patch(advantage=group_mean, reuse=PPO.reuse, sample=Attempts(group_size=2))
    ppo_recipe = PPO.patch(
        advantage=GAE(1.0, 1.0, whiten=False), regulariser=GRPO.regulariser, aggregate=GRPO.aggregate
    )
    for drift in (0.0, 0.3, 1.0):
        now = world.moved(drift)
        grpo, ppo = (world.learner(r, reference=reference) for r in (grpo_recipe, ppo_recipe))
        assert ppo.critic is not None
        ppo.scorer.critic = GroupMeanCritic.of(ppo.critic, groups)
        batches = [in_expectation(prepared(learner, groups), prob_P) for learner in (grpo, ppo)]
        if not drift:
            yield equal("advantages", *(given(b.advantage_NT, "advantage_NT") for b in batches))
        for learner in (grpo, ppo):
            stand_at(learner, now)
        found = [gradient(learner, batch) for learner, batch in zip((grpo, ppo), batches, strict=True)]
        yield equal(f"drift {drift}: gradient", *found)
    yield from in_units_of_deviation(world, drawn)


def in_units_of_deviation(world: World, groups: list[Group]) -> Iterator[Check | Fact]:
    """The z-score is the same comparison times a positive factor that a whole group shares."""
    scored = GRPO.patch(regulariser=no_penalty)
    mean_NT, score_NT = (
        given(world.learner(recipe).prepare(groups).advantage_NT, "advantage_NT")
        for recipe in (scored.patch(advantage=group_mean), scored)
    )
    rows = (mean_NT[:, 0] != 0).nonzero()[:, 0]
    factor_PG = (score_NT[rows, 0] / mean_NT[rows, 0]).reshape(-1, 2)
    yield equal("z-score over mean: one factor a group", factor_PG[:, 0], factor_PG[:, 1])
    yield at_least("and a positive one", float(factor_PG.min()), 0.0)
    yield Fact("z-score over mean: smallest factor", float(factor_PG.min()))
    yield Fact("z-score over mean: largest factor", float(factor_PG.max()))
