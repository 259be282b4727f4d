"""Claim 30: the sampler draws what it says it draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from upslope.algo.family import REINFORCE
from upslope.prove.claim import Check, Fact, claim, equal, vanishes
from upslope.prove.models import END
from upslope.prove.sampling import SAMPLINGS, by_hand
from upslope.prove.splitting import unpack
from upslope.prove.world import World, llama, toy
from upslope.rollout.address import Address
from upslope.rollout.base import Request
from upslope.rollout.draw import draw
from upslope.rollout.local import LocalSampler
from upslope.types import Sampling

WIDTH = 1e-9
"""How near to the edge of a token's interval a number may lie before rounding decides."""


def frequencies(logits_RV: Tensor, position_R: Tensor, sampling: Sampling) -> Tensor:
    """The measure of the numbers in [0, 1) that draw each token, [R, V]: since a larger number never draws an earlier
    token, halving finds where each token begins, to the last bit."""
    num_rows, num_tokens = logits_RV.shape
    row, token = torch.arange(num_rows).repeat_interleave(num_tokens), torch.arange(num_tokens).repeat(num_rows)
    low, high = torch.zeros(len(row), dtype=torch.float64), torch.ones(len(row), dtype=torch.float64)
    for _ in range(54):
        middle = (low + high) / 2
        drawn, _ = draw(logits_RV[row].clone(), position_R[row], middle, sampling, torch.tensor([END]))
        low, high = torch.where(drawn >= token, low, middle), torch.where(drawn >= token, middle, high)
    begin_RV = high.reshape(num_rows, num_tokens)
    return torch.diff(begin_RV, append=torch.ones(num_rows, 1, dtype=torch.float64), dim=1)


@claim(
    30,
    "draw",
    "The numbers that draw a token have the measure of its probability, and an attempt's are its responses' boxes",
    source="inverse transform sampling; Devroye 1986, chapter III.2",
    compares="lengths of intervals found by halving with probabilities by hand; the sampler's attempts at every corner",
)
def draws() -> Iterator[Check | Fact]:
    """u uniform in [0, 1) draws the token v with F(v - 1) <= u < F(v): an interval of length p(v). A response is then
    a box of volume prod_t p(y_t | y_<t), and what the sampler logs is the logarithm of each side."""
    world = toy()
    prefixes = list(world.states())
    ids = [torch.tensor([world.prompt + p]) for p in prefixes]
    logits_RV = torch.cat([world.plain(input_ids=i).logits[:, -1] for i in ids]).detach()
    position_R = torch.tensor([len(p) for p in prefixes])
    for name, sampling in {"plain": Sampling(max_tokens=3), **SAMPLINGS}.items():
        truth_RV = by_hand(world, sampling)
        found_RV = frequencies(logits_RV, position_R, sampling)
        yield equal(f"{name}: measure of the numbers that draw a token", found_RV, truth_RV)
        middle_R = torch.full((len(prefixes),), 0.5, dtype=torch.float64)
        token_R, logp_R = draw(logits_RV.clone(), position_R, middle_R, sampling, torch.tensor([END]))
        yield equal(f"{name}: and its log-probability", logp_R.exp(), truth_RV.gather(1, token_R[:, None])[:, 0])
        yield vanishes(
            f"{name}: a larger number never draws an earlier token", backwards(logits_RV, position_R, sampling)
        )
    short_RV = logits_RV.float()
    yield equal(
        "plain, logits in float32, by whichever kernel: the measure",
        frequencies(short_RV, position_R, Sampling(max_tokens=3)),
        short_RV.double().softmax(dim=1),
        tolerance=1e-6,
        why="the kernel's sums are in float32, which ends at 6e-8 of a number",
    )
    yield from corners("transformer", llama(), packed=False)
    yield from corners("transformer, packed", llama(), packed=True)


def backwards(logits_RV: Tensor, position_R: Tensor, sampling: Sampling) -> float:
    """How many of 1000 neighbours in [0, 1) draw tokens in the wrong order."""
    uniform = torch.linspace(0, 1 - 1e-12, 1000, dtype=torch.float64)
    wrong = 0
    for row in range(len(logits_RV)):
        many_RV, at_R = logits_RV[row].expand(1000, -1).clone(), position_R[row].expand(1000)
        token_R, _ = draw(many_RV, at_R, uniform, sampling, torch.tensor([END]))
        wrong += int((token_R.diff() < 0).sum())
    return float(wrong)


@dataclass(frozen=True)
class Listed(Address):
    """Sample i gets the numbers of row i."""

    rows: tuple[tuple[float, ...], ...] = ()

    def uniforms(self, attempts: Sequence[tuple[str, int]], num_positions: int) -> NDArray[np.float64]:
        return np.array([self.rows[sample][:num_positions] for _, sample in attempts], dtype=np.float64)


def corners(name: str, world: World, *, packed: bool) -> Iterator[Check | Fact]:
    """At every corner of a response's box the sampler writes this response. Boxes are disjoint and fill the cube, and a
    larger number never draws an earlier token, so the box is all that writes it, up to its rim."""
    states = {p: logp_V.detach().exp() for p, logp_V in world.states().items()}
    rows, meant = [], []
    for i, response in enumerate(world.responses):
        sides = []
        for t, token in enumerate(response):
            below = float(states[response[:t]][:token].sum())
            sides.append((below + WIDTH, below + float(states[response[:t]][token]) - WIDTH))
        for corner in torch.cartesian_prod(*[torch.tensor(s, dtype=torch.float64) for s in sides]).reshape(
            -1, len(sides)
        ):
            rows.append((*corner.tolist(), *[0.5] * (world.limit - len(response))))
            meant.append(i)
    learner = world.learner(REINFORCE)
    if not packed:
        unpack(learner)
    sampler = LocalSampler(learner.policy, packed=packed)
    requests = [Request("world", i, world.prompt) for i in range(len(rows))]
    address = Listed(0, "prove", 0, tuple(rows))
    found = sampler.generate(requests, Sampling(max_tokens=world.limit), address)
    missed = sum(r.response != world.responses[i] for r, i in zip(found, meant, strict=True))
    yield vanishes(f"{name}: corners of {len(world.responses)} boxes with another response", float(missed))
    logp_YT = world.logp_YT().detach()
    logged = torch.tensor(
        [[*(r.logp or ()), *[0.0] * (world.limit - len(r.response))] for r in found], dtype=torch.float64
    )
    yield equal(f"{name}: what the sampler logs", logged, logp_YT[meant])
    yield Fact(f"{name}: corners", float(len(rows)))
