"""Claim 39: problems drawn by what is known of them: the same objective with weights, a stated other one without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from upslope.algo.family import RLOO
from upslope.algo.learnable import Learnable, chances, learnability, systematic
from upslope.prove.claim import Check, Fact, angle, at_least, claim, equal
from upslope.prove.expect import expected_over
from upslope.prove.world import right_or_wrong, toy
from upslope.training.known import KnownProblems
from upslope.types import Group, Problem, Rollout, Score

NUM = 2
"""Problems a step."""
STEP = 3
RECORDS = {"easy": (15, 1), "even": (4, 4), "hard": (0, 16), "little known": (1, 0)}
"""Right and wrong attempts so far; two further problems were never tried."""


@claim(
    39,
    "learnable-problems",
    "Drawn by p (1 - p) and weighted by 1 / (n chance), problems give the gradient of the mean over all; unweighted, "
    "that of the mean by chance",
    source="Horvitz and Thompson 1952; Madow 1949 for chances that are exact",
    compares="sums over everything that can be drawn with sums over all problems; chances by hand",
)
def learnable_problems() -> Iterator[Check | Fact]:
    """A draw is decided by one uniform number. Between two neighbouring sums of chances (modulo 1) it draws the same
    problems, so an expectation is a sum over the stretches, times their lengths."""
    worlds = [right_or_wrong(toy(prompt=(1, i % 3, i % 2), seed=0)) for i in range(len(RECORDS) + 2)]
    slopes = torch.stack([expected_over(world, RLOO, size=2) for world in worlds])
    plain, weighted = (known(Learnable(fresh=0.5, floor=0.2, weighted=w)) for w in (False, True))
    chance = by_hand()
    everyone = torch.full_like(chance, NUM / len(worlds))  # a weight of NUM / n over the chance
    for name, subject, expected in (("plain", plain, chance), ("weighted", weighted, everyone)):
        found = drawn_often(subject, torch.eye(len(worlds)))
        yield equal(f"{name}: every problem's chance times weight", found, expected)
    mean_W = slopes.mean(dim=0)
    found_W = drawn_often(weighted, slopes) / NUM
    yield equal("weighted: the gradient of the mean over all problems", found_W, mean_W)
    other_W = drawn_often(plain, slopes) / NUM
    yield equal("plain: the gradient of the mean by chance", other_W, (chance[:, None] * slopes).sum(dim=0) / NUM)
    yield at_least("plain: degrees off the mean over all", angle(other_W, mean_W), 0.5)
    yield Fact("plain: degrees off the mean over all", angle(other_W, mean_W))
    yield from estimates()


def known(slot: Learnable) -> KnownProblems:
    """What is known in this world: the records, and two problems that nobody tried."""
    subject = KnownProblems([Problem(name, ()) for name in (*RECORDS, "new", "new too")], slot, seed=0)
    groups = [Group(Problem(name, ()), attempts(*record)) for name, record in RECORDS.items()]
    subject.learn(STEP, groups)
    return subject


def attempts(right: int, wrong: int) -> tuple[Rollout, ...]:
    return tuple(
        Rollout("", i, (1,), (0,), (True,), None, 0, "stop", "", Score(float(i < right))) for i in range(right + wrong)
    )


def by_hand() -> Tensor:
    """Half of a step, one problem, is shared by the two new ones; the other is one of four, by 0.8 e / sum e + 0.05."""
    e = [a * b / ((a + b) * (a + b + 1)) for a, b in ((16, 2), (5, 5), (1, 17), (2, 1))]
    tried = [0.8 * x / sum(e) + 0.2 / 4 for x in e]
    return torch.tensor([*tried, 0.5, 0.5], dtype=torch.float64)


def drawn_often(subject: KnownProblems, value_PX: Tensor) -> Tensor:
    """The expected sum, over the problems that a step draws, of their weight times their row."""
    problems = subject.in_order(STEP)
    place = {name: i for i, name in enumerate((*RECORDS, "new", "new too"))}
    chance = subject.chances(problems, STEP, NUM)
    edges = sorted({0.0, 1.0, *(float(c) % 1 for c in torch.tensor(chance, dtype=torch.float64).cumsum(0))})
    total = torch.zeros(value_PX.shape[1], dtype=torch.float64)
    for low, high in itertools.pairwise(edges):
        drawn = systematic(chance, (low + high) / 2)
        for i in drawn:
            weight = subject.weight(chance[i], NUM)
            total += (high - low) * weight * value_PX[place[problems[i].id]].double()
    return total


def estimates() -> Iterator[Check | Fact]:
    """E[p (1 - p)] by integrating over the posterior, and chances that are capped at 1."""
    grid = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    for right, wrong in ((0, 0), (3, 1), (0, 8)):
        density = grid**right * (1 - grid) ** wrong
        integral = float((density * grid * (1 - grid)).sum() / density.sum())
        yield equal(
            f"{right} right, {wrong} wrong: the integral over the posterior",
            learnability(right, wrong),
            integral,
            tolerance=1e-6,
            why="a sum over 20,000 strips",
        )
    yield equal("one that must be drawn", torch.tensor(chances([1.0, 0.1, 0.1], 2, 0.0)), torch.tensor([1.0, 0.5, 0.5]))
