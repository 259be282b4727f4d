"""Claim 40: attempts of several versions of the policy, two in one attempt too, weighted exactly or up to a cap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from upslope.algo.correction import TruncatedWeights
from upslope.algo.family import REINFORCE, RLOO
from upslope.algo.recipe import Recipe
from upslope.prove.claim import Check, Fact, at_least, at_most, claim, equal, gap
from upslope.prove.expect import expected
from upslope.prove.stale import FREE
from upslope.prove.world import World, toy
from upslope.types import Group, Problem, Rollout, Score

CAPS = (1.0, 1.25, 1.5, 2.0, 3.0)
EXACT = TruncatedWeights(FREE, "trajectory")


@dataclass(frozen=True)
class Sent:
    """One thing that can arrive: a response by its place, the version that wrote each token, the chance of both."""

    response: int
    versions: tuple[int, ...]
    chance: float


class Arrivals:
    """The learner's policy, the versions that write, and what they logged, [version][response][token]."""

    def __init__(self, now: World, versions: Sequence[World]) -> None:
        self.now, self.responses = now, now.responses
        self.logged = [v.logp_YT().tolist() for v in versions]
        self.now_YT = now.logp_YT()
        self.truth_W = now.slope(now.expected_reward())

    def written_by(self, version: int) -> list[Sent]:
        """Every response, by one version alone."""
        return [
            Sent(y, (version,) * len(response), self._chance(y, (version,) * len(response)))
            for y, response in enumerate(self.responses)
        ]

    def in_flight(self) -> list[Sent]:
        """Every response and every moment at which version 1 can take over from version 0 while it is written. Before
        a token it does with a chance of 0.4, or of 0.7 behind token 2: some states hold a sampler up."""
        found = []
        for y, response in enumerate(self.responses):
            for change in range(len(response) + 1):  # tokens of version 0; all of them: nothing arrived in time
                chance = 1.0
                for t in range(min(change + 1, len(response))):
                    arrives = 0.7 if t and response[t - 1] == 2 else 0.4
                    chance *= arrives if t == change else 1 - arrives
                versions = tuple(int(t >= change) for t in range(len(response)))
                found.append(Sent(y, versions, chance * self._chance(y, versions)))
        return found

    def _chance(self, y: int, versions: Sequence[int]) -> float:
        """prod_t mu_{v_t}(y_t | y_<t)."""
        return math.exp(sum(self.logged[v][y][t] for t, v in enumerate(versions)))

    def weight(self, sent: Sent) -> float:
        """prod_t pi(y_t) / mu_{v_t}(y_t)."""
        return math.exp(float(self.now_YT[sent.response].detach().sum())) / self._chance(sent.response, sent.versions)

    def rollout(self, sent: Sent, number: int) -> Rollout:
        """The attempt as it is handed over, each token with the log-probability under the version that wrote it."""
        response = self.responses[sent.response]
        return Rollout(
            problem_id="world",
            sample=number,
            prompt=self.now.prompt,
            response=response,
            mask=(True,) * len(response),
            logp=tuple(self.logged[v][sent.response][t] for t, v in enumerate(sent.versions)),
            version=max(sent.versions),
            ended=self.now.ended(response),
            text="",
            score=Score(float(self.now.reward_Y[sent.response])),
            versions=sent.versions,
        )

    def learnt(self, recipe: Recipe, groups: Sequence[Sequence[Sent]]) -> Tensor:
        """The expected gradient of a step that is sent one of the groups, their members drawn one by one."""
        named, chances = [], []
        for i, members in enumerate(groups):
            named.append(Group(Problem(f"world/{i}", ()), tuple(self.rollout(s, n) for n, s in enumerate(members))))
            chances.append(torch.tensor([s.chance for s in members], dtype=torch.float64).prod())
        return expected(self.now.learner(recipe), named, torch.stack(chances))

    def by_hand(self, sent: Sequence[Sent], factors: Sequence[float]) -> Tensor:
        """grad of sum chance factor R(y) log pi(y), the factor constant; shape W."""
        weight = torch.tensor([s.chance * f for s, f in zip(sent, factors, strict=True)], dtype=torch.float64)
        place = torch.tensor([s.response for s in sent])
        return self.now.slope((weight * (self.now.reward_Y * self.now_YT.sum(dim=1))[place]).sum())


@claim(
    40,
    "stale-versions",
    "Attempts of stale versions, two in one attempt too, with exact weights give grad J; what a cap takes away is at "
    "most what it cuts, and nothing once it is above every weight",
    source="importance sampling; Ionides 2008 (truncated weights); AReaL, arXiv 2505.24298 (weights that change in "
    "mid-attempt)",
    compares="expected gradients over attempts and moments of change with grad J, and with sums of cut weights by hand",
)
def stale_versions() -> Iterator[Check | Fact]:
    """E[prod_t pi(y_t) / mu_{v_t}(y_t) R grad log pi(y)] = grad J(pi), where v_t is the version that wrote token t: it
    may depend on chance and on the tokens before t, not on later ones."""
    first = toy()
    second = first.moved(0.6, seed=2)
    arrivals = Arrivals(second.moved(0.6, seed=3), (first, second))
    truth_W = arrivals.truth_W
    oldest, mixed = arrivals.written_by(0), arrivals.in_flight()
    both = [replace(s, chance=s.chance / 2) for s in (*oldest, *mixed)]
    for name, sent in (
        ("one update old", arrivals.written_by(1)),
        ("two updates old", oldest),
        ("changed in mid-attempt", mixed),
        ("half old, half changed", both),
    ):
        alone = [[s] for s in sent]
        yield equal(f"{name}: the chances sum to 1", sum(s.chance for s in sent), 1.0)
        yield equal(
            f"{name}, exact weights: grad J", arrivals.learnt(REINFORCE.patch(correction=EXACT), alone), truth_W
        )
        yield Fact(f"{name}, no weights: off grad J by", gap(arrivals.learnt(REINFORCE, alone), truth_W))
    yield Fact("changed: share of attempts with two versions", sum(s.chance for s in mixed if len({*s.versions}) == 2))
    pairs = [[a, b] for a in oldest for b in mixed]
    found_W = arrivals.learnt(RLOO.patch(correction=EXACT), pairs)
    yield equal("an old and a changed attempt, each the other's baseline: grad J", found_W, truth_W)
    yield from truncated(arrivals, mixed)
    yield from picked_by_length(arrivals, mixed)


def truncated(arrivals: Arrivals, sent: Sequence[Sent]) -> Iterator[Check | Fact]:
    """min(w, C): what is missing is E[(w - C)+ R grad log pi], at most E[(w - C)+ |R| |grad log pi|] long."""
    truth_W, alone = arrivals.truth_W, [[s] for s in sent]
    weights = [arrivals.weight(s) for s in sent]
    per_Y = arrivals.now.reward_Y * arrivals.now_YT.sum(dim=1)
    length_Y = [float(arrivals.now.slope(term).norm()) for term in per_Y]
    yield Fact("the largest weight", max(weights))
    bounds = []
    for cap in (*CAPS, max(weights)):
        recipe = REINFORCE.patch(correction=TruncatedWeights(cap, "trajectory"))
        found_W = arrivals.learnt(recipe, alone)
        label = f"cap {cap:.3g}"
        yield equal(f"{label}: by hand", found_W, arrivals.by_hand(sent, [min(w, cap) for w in weights]))
        cut = [(s, w - cap) for s, w in zip(sent, weights, strict=True) if w > cap]
        bounds.append(sum(s.chance * excess * length_Y[s.response] for s, excess in cut))
        yield at_most(f"{label}: the bias is at most what is cut", float((found_W - truth_W).norm()), bounds[-1])
        yield Fact(f"{label}: off grad J by", gap(found_W, truth_W))
        yield Fact(f"{label}: share of attempts cut", sum(s.chance for s, _ in cut))
    yield equal("a cap at the largest weight: grad J", found_W, truth_W)
    yield at_most(
        "a larger cap has the smaller bound",
        torch.tensor(bounds[1:], dtype=torch.float64),
        torch.tensor(bounds[:-1], dtype=torch.float64),
    )
    token_W = arrivals.learnt(REINFORCE.patch(correction=TruncatedWeights(FREE)), alone)
    yield at_least("weights of single tokens leave a bias at any cap", gap(token_W, truth_W), 0.05)
    yield Fact("weights of single tokens, no cap: off grad J by", gap(token_W, truth_W))


def picked_by_length(arrivals: Arrivals, sent: Sequence[Sent]) -> Iterator[Check | Fact]:
    """Where short attempts are learnt from and long ones are dropped, no weight mends what was chosen: the gradient is
    that of the reward of short attempts, grad sum_{short} pi(y) R(y)."""
    kept = [s for s in sent if len(s.versions) < arrivals.now.limit]
    found_W = arrivals.learnt(REINFORCE.patch(correction=EXACT), [[s] for s in kept])
    short_Y = arrivals.now.length_Y < arrivals.now.limit
    of_short_W = arrivals.now.slope((arrivals.now.prob_Y() * arrivals.now.reward_Y * short_Y).sum())
    yield equal("late attempts dropped: the gradient of early ones' reward", found_W, of_short_W)
    yield at_least("late attempts dropped: off grad J by", gap(found_W, arrivals.truth_W), 0.2)
    yield Fact("late attempts dropped: off grad J by", gap(found_W, arrivals.truth_W))
