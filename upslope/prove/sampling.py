"""Claim 15: scoring under another distribution than the one that was sampled from."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.family import REINFORCE
from upslope.errors import UserError
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal, gap
from upslope.prove.expect import expected
from upslope.prove.models import END
from upslope.prove.world import World, toy
from upslope.types import Sampling

SAMPLINGS = {
    "temperature 0.7": Sampling(temperature=0.7, max_tokens=3),
    "temperature 1.5": Sampling(temperature=1.5, max_tokens=3),
    "no end before 2 tokens": Sampling(min_tokens=2, max_tokens=3),
    "top-k 2": Sampling(top_k=2, max_tokens=3),
    "top-p 0.8": Sampling(top_p=0.8, max_tokens=3),
}


@claim(
    15,
    "sampling-distribution",
    "Scoring at another temperature than was sampled at biases the gradient; so do top-k and top-p, which are refused",
    source="Williams 1992; the score function is that of the distribution drawn from",
    compares="expected gradients with the gradient of expected reward under the sampling distribution",
)
def sampling_distribution() -> Iterator[Check | Fact]:
    """J_q = sum_y q(y) R(y), q the sampling distribution. E_q[R grad log q] = grad J_q; E_q[R grad log p] is not."""
    world = toy(limit=3)
    for name, sampling in SAMPLINGS.items():
        yield equal(
            f"{name}: the distribution itself", torch.stack(drawn_from(world, sampling)), by_hand(world, sampling)
        )
        truth_W = world.slope(world.expected_reward(sampling))
        groups, prob_P = world.groups(1, sampling)
        yield Fact(f"{name}: responses that can be drawn, of {len(world.responses)}", len(groups))
        if sampling.scorable:
            found_W = expected(world.learner(REINFORCE, sampling=sampling), groups, prob_P)
            yield equal(f"{name}: scored as sampled, grad J_q", found_W, truth_W)
        else:
            yield equal(f"{name}: the learner refuses it", float(refused(world, sampling)), 1.0)
        plainly_W = expected(world.learner(REINFORCE), groups, prob_P)
        turned = angle(plainly_W, truth_W)
        yield at_least(f"{name}, scored plainly: degrees off grad J_q", turned, 1.0)
        yield Fact(f"{name}, scored plainly: degrees off grad J_q", turned)
        yield Fact(f"{name}, scored plainly: off grad J_q by, of its length", gap(plainly_W, truth_W))


def refused(world: World, sampling: Sampling) -> bool:
    """Whether a learner will not be made for attempts drawn so."""
    try:
        world.learner(REINFORCE, sampling=sampling)
    except UserError:
        return True
    return False


def drawn_from(world: World, sampling: Sampling) -> list[Tensor]:
    """q(v | s), shape V, at every state."""
    return [logp_V.exp() for logp_V in world.states(sampling).values()]


def by_hand(world: World, sampling: Sampling) -> Tensor:
    """The same from the plain distribution p, [R, V]: p^(1/temperature), banned and unlikely tokens out, normalised."""
    rows = []
    for prefix, logp_V in world.states().items():
        prob_V = (logp_V.detach() / sampling.temperature).exp()
        if len(prefix) < sampling.min_tokens:
            prob_V[END] = 0
        prob_V = prob_V / prob_V.sum()
        order = sorted(range(len(prob_V)), key=lambda v: -float(prob_V[v]))
        kept: list[int] = []
        for token in order:
            if (sampling.top_k and len(kept) == sampling.top_k) or float(prob_V[kept].sum()) >= sampling.top_p:
                break
            kept.append(token)
        row_V = torch.zeros_like(prob_V)
        row_V[kept] = prob_V[kept]
        rows.append(row_V / row_V.sum())
    return torch.stack(rows)
