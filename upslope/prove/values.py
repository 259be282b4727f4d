"""Claim 22: a critic that is exactly right, and one that is not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from upslope.algo.advantage import GAE
from upslope.algo.aggregate import sequence_sum
from upslope.algo.critic import LearnedCritic, OwnCopy
from upslope.algo.family import PPO, REINFORCE
from upslope.algo.recipe import Recipe
from upslope.algo.regulariser import no_penalty
from upslope.learn.bound import BoundLearner
from upslope.learn.critic_learner import CriticLearner
from upslope.learn.optimizer import LocalOptimizer
from upslope.learn.settings import LearnSettings
from upslope.model.policy import Policy
from upslope.model.states import States
from upslope.prove.baseline import variance
from upslope.prove.claim import Check, Fact, angle, at_least, at_most, claim, equal
from upslope.prove.expect import each_gradient, expected
from upslope.prove.world import Prefix, World, toy
from upslope.types import Batch

PLAIN_PPO = PPO.patch(
    regulariser=no_penalty, aggregate=sequence_sum, critic=OwnCopy(clip=0.0), advantage=GAE(1.0, 1.0, whiten=False)
)
"""One discount, no whitening, no clip on the critic: what the theory is about."""


def exact_values(world: World) -> dict[Prefix, Tensor]:
    """V(s) = sum_v pi(v|s) V(s v), and R at the end of a response: from the last states back to the first; constant."""
    states = {prefix: logp_V.detach().exp() for prefix, logp_V in world.states().items()}
    reward = dict(zip(world.responses, world.reward_Y, strict=True))
    found: dict[Prefix, Tensor] = {}
    for prefix in sorted(states, key=len, reverse=True):
        after = [(*prefix, v) for v in range(world.policy.vocabulary)]
        found[prefix] = states[prefix] @ torch.stack([reward[a] if a in reward else found[a] for a in after])
    return {prefix: found[prefix] for prefix in states}


class ValueTable(nn.Module):
    """A value for every state of a world: a critic that can be exactly right."""

    def __init__(self, values: dict[Prefix, Tensor]) -> None:
        super().__init__()
        self.place = {prefix: i for i, prefix in enumerate(values)}
        self.value_S = nn.Parameter(torch.stack(list(values.values())).clone())
        self.trunk = nn.Identity()  # it has a body of its own: nothing is shared with the policy


class TableCritic(CriticLearner):
    """Looks its values up; everything else is production's."""

    def values(self, batch: Batch, policy: Policy, states: States | None) -> Tensor:
        table: ValueTable = self.model  # type: ignore[assignment]
        places = [[table.place[r.response[:t]] for t in range(len(r.response))] for r in batch.rollouts]
        width = batch.mask_NT.shape[1]
        index_NT = torch.tensor([row + [0] * (width - len(row)) for row in places])
        return torch.where(batch.mask_NT, table.value_S[index_NT], 0)


def judged_by(world: World, recipe: Recipe, values: dict[Prefix, Tensor], lr: float = 1e-2) -> BoundLearner:
    """The world's learner with these values for a critic."""
    learner = world.learner(recipe, lr=lr)
    settings = LearnSettings(lr=lr, warmup=0, clip=0.0)
    table = ValueTable(values)
    slot: LearnedCritic = recipe.critic  # type: ignore[assignment]
    optimizer = LocalOptimizer(table, settings, 100, torch.float64)
    optimizer.num_done = slot.warmup
    learner.scorer.critic = TableCritic(slot, table, optimizer)  # type: ignore[arg-type]
    return learner


def advantages(world: World, values: dict[Prefix, Tensor], lam: float) -> Tensor:
    """sum_k lam^k (V(s_{t+k+1}) - V(s_{t+k})), V = R behind the last token: YT by hand, for gamma = 1."""
    found = torch.zeros(len(world.responses), world.limit, dtype=torch.float64)
    for i, response in enumerate(world.responses):
        ladder = [values[response[:t]] for t in range(len(response))] + [world.reward_Y[i]]
        for t in range(len(response)):
            found[i, t] = sum(lam ** (k - t) * (ladder[k + 1] - ladder[k]) for k in range(t, len(response)))
    return found


@claim(
    22,
    "exact-critic",
    "With the exact V every lambda gives grad J, at a fraction of the variance; the critic alone decides what is lost",
    source="arXiv 1506.02438, sections 3 and 4; Sutton, McAllester, Singh & Mansour 2000",
    compares="expected gradients of PPO's first step with grad J, and their variance by hand, five lambdas",
)
def exact_critic() -> Iterator[Check | Fact]:
    """E[delta_t | s_t, y_t] = Q(s_t, y_t) - V(s_t) for the exact V, and E[delta_{t+k} | y_t] = 0 for k > 0: so every
    lambda has the same expectation. Where V is wrong by w(s), lambda < 1 is off by what w says."""
    world = toy()
    slope_W = world.slope(world.expected_reward())
    groups, prob_Y = world.groups(1)
    values = exact_values(world)
    yield equal("V at the start is J", values[()], world.expected_reward().detach())
    score_YTW = scores(world)
    plain = variance(each_gradient(world.learner(REINFORCE), groups), prob_Y)
    yield Fact("variance without a critic", plain)
    for lam in (0.0, 0.5, 0.9, 0.95, 1.0):
        learner = judged_by(world, PLAIN_PPO.patch(advantage=GAE(1.0, lam, whiten=False)), values)
        yield equal(f"lambda {lam}: grad J", expected(learner, groups, prob_Y), slope_W)
        found = variance(each_gradient(learner, groups), prob_Y)
        by_hand_YW = (advantages(world, values, lam)[:, :, None] * score_YTW).sum(dim=1)
        by_hand = prob_Y @ by_hand_YW.square().sum(dim=1) - slope_W.square().sum()
        yield equal(f"lambda {lam}: the variance", found, by_hand)
        yield at_most(f"lambda {lam}: less than without a critic", found, plain)
        yield Fact(f"lambda {lam}: variance", found)
    wrong = {prefix: value + 0.3 * len(prefix) for prefix, value in values.items()}
    for lam in (0.0, 0.95, 1.0):
        learner = judged_by(world, PLAIN_PPO.patch(advantage=GAE(1.0, lam, whiten=False)), wrong)
        off_W = (prob_Y[:, None, None] * (advantages(world, wrong, lam)[:, :, None] * score_YTW)).sum(dim=(0, 1))
        yield equal(f"a critic that is wrong, lambda {lam}: by hand", expected(learner, groups, prob_Y), off_W)
        if lam < 1:
            yield at_least(f"a critic that is wrong, lambda {lam}: degrees off grad J", angle(off_W, slope_W), 0.1)
        yield Fact(f"a critic that is wrong, lambda {lam}: degrees off grad J", angle(off_W, slope_W))


def scores(world: World) -> Tensor:
    """grad log pi(y_t | y_<t) of every token of every response, YTW; zero behind its end."""
    logp_YT = world.logp_YT()
    return torch.stack(
        [
            torch.stack([world.slope(logp_YT[i, t]) for t in range(len(r))] + behind(world, r))
            for i, r in enumerate(world.responses)
        ]
    )


def behind(world: World, response: Prefix) -> list[Tensor]:
    """Zeros for the places behind a response's end."""
    num_weights = sum(w.numel() for w in world.policy.model.parameters())
    return [torch.zeros(num_weights, dtype=torch.float64)] * (world.limit - len(response))
