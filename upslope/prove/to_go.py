"""Claims 25 and 26: the penalty paid token by token and carried back, and the same normalised over the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from upslope.algo.advantage import GAE, BatchZScore, group_mean
from upslope.algo.family import REINFORCE
from upslope.algo.regulariser import K1, no_penalty
from upslope.algo.reuse import Reuse
from upslope.prove.baseline import variance
from upslope.prove.claim import Check, Fact, at_most, claim, equal
from upslope.prove.expect import each_gradient, expected
from upslope.prove.penalty import kl_of_responses
from upslope.prove.splitting import some_groups
from upslope.prove.values import PLAIN_PPO, scores
from upslope.prove.world import World, toy
from upslope.types import Batch, Group, given

BETA = 0.3
TO_GO = PLAIN_PPO.patch(regulariser=K1(BETA))
"""lambda 1 and a critic that says 0: every token is pushed by the rewards, less costs, from itself on."""


def rewards_to_go(world: World, reference: World, beta: float) -> Tensor:
    """R - beta sum_{u >= t} (log pi - log ref)(y_u), YT, by hand; zero behind the end."""
    cost_YT = beta * (world.logp_YT() - reference.logp_YT()).detach()
    found = torch.zeros_like(cost_YT)
    for i, response in enumerate(world.responses):
        for t in range(len(response)):
            found[i, t] = world.reward_Y[i] - cost_YT[i, t : len(response)].sum()
    return found


@claim(
    25,
    "kl-to-go",
    "Costs summed from their token on have the gradient of J - beta KL, at less variance than their total",
    source="arXiv 1909.08593, equation 2; Sutton & Barto 2018, section 13.2 (causality); arXiv 1506.02438, section 2",
    compares="advantages, expected gradients and variances with sums by hand over all responses",
)
def kl_to_go() -> Iterator[Check | Fact]:
    """E[sum_t (R - beta sum_{u >= t} k1_u) grad log pi(y_t)] = grad (J - beta KL(p || q)): what was paid before t does
    not depend on y_t, so it only adds noise. The cost is the learner's own log-ratio, whoever drew the attempt."""
    world = toy()
    groups, prob_Y = world.groups(1)
    score_YTW = scores(world)
    for name, reference in (("near", world.moved(0.3, seed=4)), ("far", world.moved(1.0, seed=4))):
        truth_W = world.slope(world.expected_reward() - BETA * kl_of_responses(world, reference))
        total = world.learner(REINFORCE.patch(regulariser=K1(BETA)), reference=reference)
        to_go = world.learner(TO_GO, reference=reference, value=0.0)
        by_hand_YT = rewards_to_go(world, reference, BETA)
        found_NT = given(to_go.prepare(groups).advantage_NT, "advantage_NT")
        yield equal(f"{name}: every token's reward to go", found_NT, by_hand_YT)
        yield equal(f"{name}: to go: grad (J - beta KL)", expected(to_go, groups, prob_Y), truth_W)
        yield equal(f"{name}: in total: grad (J - beta KL)", expected(total, groups, prob_Y), truth_W)
        found = [variance(each_gradient(learner, groups), prob_Y) for learner in (total, to_go)]
        by_hand_YW = (by_hand_YT[:, :, None] * score_YTW).sum(dim=1)
        yield equal(
            f"{name}: to go: the variance", found[1], prob_Y @ by_hand_YW.square().sum(dim=1) - truth_W.square().sum()
        )
        yield at_most(f"{name}: to go scatters less", found[1], found[0])
        yield Fact(f"{name}: variance, cost in total", found[0])
        yield Fact(f"{name}: variance, cost to go", found[1])
    yield from whose_log_probability(world, reference)


def whose_log_probability(world: World, reference: World) -> Iterator[Check | Fact]:
    """A sampler that logs something else (lower precision, older weights) changes nothing about what is paid."""
    groups, _ = world.groups(1)
    other = [
        Group(g.problem, tuple(replace(r, logp=tuple(p - 0.5 for p in (r.logp or ()))) for r in g.rollouts))
        for g in groups
    ]
    by_hand_Y = rewards_to_go(world, reference, BETA)[:, 0]
    for name, recipe in (
        ("REINFORCE", REINFORCE.patch(regulariser=K1(BETA))),
        ("PPO, one update", TO_GO),
        ("PPO, four updates", TO_GO.patch(reuse=Reuse(epochs=4))),
    ):
        learner = world.learner(recipe, reference=reference, value=0.0)
        yield equal(
            f"{name}: outcomes less costs, whatever the sampler logged", learner.prepare(other).reward_N, by_hand_Y
        )


@claim(
    26,
    "batch-z-score",
    "REINFORCE++ pushes a token by its reward to go, less the mean and over the deviation of all tokens of the batch",
    source="arXiv 2501.03262, section 3",
    compares="advantages of a padded batch of four problems with lists by hand, with and without a penalty",
)
def batch_z_score() -> Iterator[Check | Fact]:
    """A_t = (G_t - mean) / std over the chosen tokens alone, padding no part of it; ``centre="group"`` takes the mean
    outcome of the problem's attempts off first."""
    world = toy()
    reference = world.moved(1.0, seed=4)
    groups = some_groups(world)
    for penalty in (no_penalty, K1(BETA)):
        for centre in ("batch", "group"):
            recipe = REINFORCE.patch(advantage=BatchZScore(centre, eps=0.0), regulariser=penalty)
            batch = world.learner(recipe, reference=reference if recipe.refers else None).prepare(groups)
            label = f"{'no penalty' if penalty is no_penalty else 'k1 in the reward'}, centre {centre}"
            found_NT = given(batch.advantage_NT, "advantage_NT")
            yield equal(f"{label}: advantages", found_NT, by_hand(batch, centre))
            inside = found_NT[batch.mask_NT]
            yield equal(f"{label}: their mean is 0 (added to 1)", 1 + inside.mean(), 1.0)
            yield equal(f"{label}: their mean square is 1", inside.square().mean(), 1.0)
            yield Fact(f"{label}: share of padding in the rectangle", 1 - float(batch.mask_NT.double().mean()))
        ppo = PLAIN_PPO.patch(advantage=GAE(1.0, 1.0, whiten=True), regulariser=penalty)
        batch = world.learner(ppo, reference=reference if ppo.refers else None, value=0.0).prepare(groups)
        yield equal(
            f"{'no penalty' if penalty is no_penalty else 'k1 in the reward'}, PPO with a critic that says 0: the same",
            given(batch.advantage_NT, "advantage_NT"),
            by_hand(batch, "batch"),
            tolerance=1e-6,
            why="whitening adds 1e-8 to the deviation",
        )
    yield from of_equal_lengths(world)


def by_hand(batch: Batch, centre: str) -> Tensor:
    """The same with plain lists."""
    rows = [given(batch.reward_NT, "reward_NT")[n, : len(r.response)].tolist() for n, r in enumerate(batch.rollouts)]
    to_go = [[math.fsum(row[t:]) for t in range(len(row))] for row in rows]
    if centre == "group":
        outcome: dict[str, list[float]] = {}
        for rollout, row in zip(batch.rollouts, rows, strict=True):
            outcome.setdefault(rollout.problem_id, []).append(math.fsum(row))
        mean_of = {problem: math.fsum(found) / len(found) for problem, found in outcome.items()}
        to_go = [[g - mean_of[r.problem_id] for g in row] for r, row in zip(batch.rollouts, to_go, strict=True)]
    tokens = [g for row in to_go for g in row]
    mean = math.fsum(tokens) / len(tokens)
    deviation = math.sqrt(math.fsum((g - mean) ** 2 for g in tokens) / len(tokens))
    found = torch.zeros(batch.mask_NT.shape, dtype=torch.float64)
    for n, row in enumerate(to_go):
        found[n, : len(row)] = torch.tensor([(g - mean) / deviation for g in row], dtype=torch.float64)
    return found


def of_equal_lengths(world: World) -> Iterator[Check | Fact]:
    """Without a penalty, one problem and attempts of one length: the group mean over the population's deviation."""
    longest = [r for r in world.rollouts() if len(r.response) == world.limit][:6]
    group = [Group(world.groups(1)[0][0].problem, tuple(longest))]
    scored, mean = (
        given(world.learner(REINFORCE.patch(advantage=kind)).prepare(group).advantage_NT, "advantage_NT")
        for kind in (BatchZScore(eps=0.0), group_mean)
    )
    reward_N = torch.tensor([r.reward for r in longest], dtype=torch.float64)
    yield equal("one problem, equal lengths: (R - mean) / std", scored, mean / reward_N.std(correction=0))
