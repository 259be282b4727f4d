"""Learners in processes of their own, with gloo between them, are one learner."""

from __future__ import annotations

import functools
import os
import time

import pytest
import torch
from processes import RankFailed, on_processes
from ranked import RECIPES as ALL, look, region_seen, require_same
from tiny import group, learner, random_groups

from upslope.algo.family import GRPO
from upslope.algo.objective import Objective
from upslope.cluster import ranks as cluster_ranks
from upslope.cluster.ranks import DistributedRanks, received, sent
from upslope.errors import NonFinite
from upslope.learn.prepare import weigh
from upslope.learn.ranks import Alone

NAMES = ("sft", "grpo", "ppo", "dapo", "trpo", "critic on a copy", "critic on the trunk", "marks by rank")
RECIPES = {name: ALL[name] for name in NAMES}
"""Of every way to update one; tests/learn/test_ranks.py has all recipes, with ranks in threads."""


@functools.cache
def seen_by(size):
    """By rank: one start of processes for all recipes."""

    def work():
        return {name: look(recipe, DistributedRanks(), random_groups(4, 3)) for name, recipe in RECIPES.items()}

    return on_processes(size, work, seconds=300)


@pytest.mark.parametrize("name", RECIPES)
def test_two_learners_are_one(name):
    alone = look(RECIPES[name], Alone(), random_groups(4, 3))
    assert max(float(g.abs().max()) for g in alone.slopes.values()) > 1e-3
    require_same(alone, [seen[name] for seen in seen_by(2)])


def test_of_three_one_may_have_no_rows():
    names = ("grpo", "critic on a copy", "critic on the trunk", "trpo", "marks by rank")
    groups = [group("p", [3, 4], [[5, 6, 7], [8]], [1.0, 0.0])]
    found = on_processes(3, lambda: {n: look(RECIPES[n], DistributedRanks(), groups) for n in names})
    for name in names:
        require_same(look(RECIPES[name], Alone(), groups), [seen[name] for seen in found])


def test_the_ball_is_measured_over_all_rows():
    """Products with the Fisher matrix, the slope, and what a trial step does, one by one."""
    alone = region_seen(Alone())
    assert alone[1].abs().max() > 1e-3 and alone[3][2] > 1e-6
    for found in on_processes(2, lambda: region_seen(DistributedRanks())):
        for one, other in zip(alone, found, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-10)


def test_what_is_summed_gathered_and_told():
    def work():
        cluster_ranks.BUCKET = 24  # bytes: three float64
        ranks = DistributedRanks()
        mine = 10.0**ranks.rank
        tensors = [
            torch.full((n,), mine, dtype=d) for n, d in ((2, torch.float64), (3, torch.float32), (5, torch.float32))
        ]
        tensors += [torch.full((2, 2), mine).t(), torch.zeros(0)]
        ranks.sum(tensors)
        return [t.flatten().tolist() for t in tensors], ranks.gather(ranks.rank), ranks.from_first(ranks.rank + 7)

    sums = [[11.0] * 2, [11.0] * 3, [11.0] * 5, [11.0] * 4, []]
    assert on_processes(2, work) == [(sums, [0, 1], 7)] * 2


def test_what_is_sent_between_devices_is_received():
    given = {"a": [torch.arange(3), group("p", [3], [[4]], [1.0])], "b": None}
    found = received(sent(given))
    assert found["a"][0].tolist() == [0, 1, 2] and found["a"][1:] == given["a"][1:] and found["b"] is None


def test_what_is_not_finite_on_one_rank_stops_all():
    """One token's advantage is infinite: only the last rank has its row."""

    def work():
        subject = learner(GRPO, ranks=DistributedRanks())
        batch = weigh(subject.prepare(random_groups(4, 3)), GRPO)
        batch.advantage_NT[-1] = torch.inf
        try:
            subject.gradient(Objective(GRPO), batch)
        except NonFinite as error:
            return str(error)

    one, other = on_processes(2, work)
    assert one == other and "the loss is" in one


@pytest.mark.parametrize(("end", "said"), [(KeyError, "(?s)rank 1: .*KeyError"), (os._exit, "rank 1: it died")])
def test_a_rank_that_raises_or_dies_is_named(end, said):
    def work():
        if DistributedRanks().rank == 0:
            return time.sleep(600)
        raise end(0)

    with pytest.raises(RankFailed, match=said):
        on_processes(2, work)


def test_ranks_that_wait_for_each_other_are_given_up():
    def work():
        return DistributedRanks().rank or time.sleep(600)

    with pytest.raises(RankFailed, match=r"ranks \[0\] took longer than 3 s"):
        on_processes(2, work, seconds=3)
