"""Claim 3: imitation is reinforcement with reward 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from upslope.algo.aggregate import sequence_mean, sequence_sum, token_mean
from upslope.algo.family import REINFORCE, RFT, SFT
from upslope.prove.claim import Check, Fact, claim, equal
from upslope.prove.expect import expected, gradient, prepared
from upslope.prove.world import World, numbers, right_or_wrong, toy
from upslope.types import Group, Score


@claim(
    3,
    "imitation",
    "SFT is REINFORCE with reward 1 on demonstrations; RFT is REINFORCE with 0/1 rewards and no baseline",
    source="Williams 1992; arXiv 2308.01825 (RFT)",
    compares="gradients with REINFORCE's under the same aggregate; RFT's times the attempts that each divides by",
)
def imitation() -> Iterator[Check | Fact]:
    """SFT: with A = 1 both are sum_n w_n sum_t grad log pi, so any aggregate makes them equal, batch by batch.

    RFT: the rewarded K of N attempts. The sums agree; the gradients do once both divide by the same number:
    K * g_RFT = N * g_REINFORCE. If REINFORCE too keeps only what was rewarded, they are equal as they stand.
    """
    world = right_or_wrong(toy(limit=2))
    groups, _ = world.groups(2)
    yield from demonstrated(world, groups)
    rft, reinforce = world.learner(RFT), world.learner(REINFORCE)
    filtered = world.learner(REINFORCE.patch(sample=RFT.sample))
    sums, kept_only = [], []
    for batch in [[g] for g in groups] + [list(groups[i : i + 3]) for i in range(0, len(groups), 3)]:
        kept = [k for k in map(RFT.sample.keep, batch) if k is not None]  # type: ignore[union-attr]
        if not kept:
            continue
        num, num_kept = (sum(len(g.rollouts) for g in of) for of in (batch, kept))
        imitated_W = gradient(rft, prepared(rft, kept))
        sums.append((num_kept * imitated_W, num * gradient(reinforce, prepared(reinforce, batch))))
        kept_only.append((imitated_W, gradient(filtered, prepared(filtered, kept))))
    for label, pairs in (("K g(RFT) = N g(REINFORCE)", sums), ("REINFORCE on what RFT keeps", kept_only)):
        left, right = (torch.stack([p[i] for p in pairs]) for i in (0, 1))
        yield equal(f"{label}, batch by batch", left, right)
    yield Fact("batches compared", len(sums))


def demonstrated(world: World, groups: list[Group]) -> Iterator[Check | Fact]:
    """SFT on given text, against REINFORCE on attempts with the same tokens and reward 1."""
    attempts = [replace(g, rollouts=tuple(replace(r, score=Score(1.0)) for r in g.rollouts)) for g in groups]
    given_text = [replace(g, rollouts=tuple(replace(r, logp=None) for r in g.rollouts)) for g in attempts]
    for aggregate in (token_mean, sequence_sum, sequence_mean):
        sft = world.learner(SFT.patch(aggregate=aggregate))
        acting = world.learner(REINFORCE.patch(aggregate=aggregate))
        pairs = [
            (gradient(sft, prepared(sft, [a, b])), gradient(acting, prepared(acting, [c, d])))
            for a, b, c, d in zip(given_text[::2], given_text[1::2], attempts[::2], attempts[1::2], strict=False)
        ]
        left, right = (torch.stack([p[i] for p in pairs]) for i in (0, 1))
        yield equal(f"SFT is REINFORCE with reward 1, {aggregate.__name__}", left, right)
    # Demonstrations from a distribution q of somebody else's: the gradient of sum_y q(y) log p(y).
    share_Y = numbers(len(world.responses), seed=5).exp()
    share_Y = share_Y / share_Y.sum()
    single = [Group(g.problem, g.rollouts[:1]) for g in given_text[:: len(world.responses)]]
    sft = world.learner(SFT.patch(aggregate=sequence_sum))
    likelihood = (share_Y * world.logp_YT().sum(dim=1)).sum()
    yield equal(
        "SFT ascends the demonstrations' expected log-likelihood",
        expected(sft, single, share_Y),
        world.slope(likelihood),
    )
