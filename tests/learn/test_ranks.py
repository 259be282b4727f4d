"""Several learners that share an update are one learner: the same batch, the same gradient, the same step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given as every, strategies as st
from ranked import HERE, RECIPES, TIGHT, close, look, region_seen, require_same, slopes, weights
from tiny import group, largest_gap, learner, random_groups

from upslope.algo.critic import OwnCopy
from upslope.algo.family import GRPO, PPO, REINFORCE_BASELINE
from upslope.algo.objective import Objective
from upslope.learn.prepare import passes, weigh
from upslope.learn.ranks import Alone, shares, sum_numbers
from upslope.learn.stand_ins import StandIn, on_stand_ins


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_ranks_are_one_learner(name, size):
    recipe, groups = RECIPES[name], random_groups(4, 3)
    alone = look(recipe, Alone(), groups)
    assert max(float(g.abs().max()) for g in alone.slopes.values()) > 1e-3
    found = on_stand_ins(size, lambda rank: look(recipe, rank, groups))
    require_same(alone, found)
    assert not all(torch.equal(w, alone.weights[n]) for n, w in weights(learner(recipe)).items()), "it has moved"


@pytest.mark.parametrize("name", ["grpo", "critic on a copy", "critic on the trunk", "trpo", "marks by rank"])
def test_a_rank_without_rows_takes_part(name):
    """One problem with two attempts, for three ranks."""
    recipe = RECIPES[name]
    groups = [group("p", [3, 4], [[5, 6, 7], [8]], [1.0, 0.0])]
    require_same(look(recipe, Alone(), groups), on_stand_ins(3, lambda rank: look(recipe, rank, groups)))


def test_a_step_of_which_no_row_has_a_gradient_is_the_same_step():
    groups = [group("p", [3, 4], [[5, 6, 7], [8]], [1.0, 1.0])]

    def step(ranks):
        subject = learner(REINFORCE_BASELINE, ranks=ranks)
        (minibatch,) = passes(subject.prepare(groups), REINFORCE_BASELINE, HERE)
        outcome = REINFORCE_BASELINE.update(subject, Objective(REINFORCE_BASELINE), minibatch)
        return outcome, weights(subject)

    alone, expected = step(Alone())
    for outcome, found in on_stand_ins(2, step):
        assert outcome.trace is alone.trace is None
        assert outcome.stats == alone.stats
        assert largest_gap(found, expected) == 0


def test_while_the_critic_warms_up_it_alone_moves_on_all_ranks():
    recipe = PPO.patch(critic=OwnCopy(warmup=5))

    def step(ranks):
        subject = learner(recipe, ranks=ranks)
        subject.critic.optimizer.num_done = 0
        before = weights(subject)
        recipe.update(subject, Objective(recipe), weigh(subject.prepare(random_groups(3, 2)), recipe))
        return before, weights(subject)

    expected = step(Alone())[1]
    for before, after in on_stand_ins(2, step):
        assert largest_gap(after, expected) < TIGHT
        moved = {n.startswith("critic ") for n in after if not torch.equal(after[n], before[n])}
        assert moved == {True}


@pytest.mark.parametrize("size", [2, 3])
def test_the_trust_region_is_measured_over_all_rows(size):
    """Products with the Fisher matrix, the slope, and what a trial step does, one by one."""
    alone = region_seen(Alone())
    assert alone[1].abs().max() > 1e-3 and alone[3][2] > 1e-6
    for found in on_stand_ins(size, region_seen):
        for one, other in zip(alone, found, strict=True):
            close(other, one)


# -- what would be wrong, and is seen -------------------------------------------------------------------------------


class Forgetful(StandIn):
    """Sums nothing: every rank goes its own way."""

    def sum(self, tensors):
        pass


class Selfish(StandIn):
    """Denominators of its own rows alone, as if they were the whole update."""

    def share(self, batch):
        mine = super().share(batch)
        if mine.weight_NT is None:
            return mine
        return replace(mine, weight_NT=mine.weight_NT * batch.num_rollouts / max(mine.num_rollouts, 1))


class Backwards(StandIn):
    """Gathers the last rank's first."""

    def gather(self, value):
        return super().gather(value)[::-1]


class Greedy(StandIn):
    """Every rank takes all rows."""

    def share(self, batch):
        return batch


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("grpo", Forgetful), ("grpo", Selfish), ("grpo", Backwards), ("grpo", Greedy), ("trpo", Forgetful)],
)
def test_a_defect_is_seen(name, wrong):
    recipe, groups = RECIPES[name], random_groups(4, 3)
    alone = look(recipe, Alone(), groups)
    with pytest.raises((AssertionError, RuntimeError)):
        require_same(alone, on_stand_ins(2, lambda rank: look(recipe, wrong(rank.rank, rank._table), groups)))


@pytest.mark.parametrize("wrong", [Forgetful, Selfish, Greedy])
def test_a_defect_is_seen_in_the_gradient(wrong):
    groups = random_groups(4, 3)

    def gradient(ranks):
        subject = learner(REINFORCE_BASELINE, ranks=ranks)
        subject.gradient(Objective(REINFORCE_BASELINE), weigh(subject.prepare(groups), REINFORCE_BASELINE))
        return slopes(subject)

    expected = gradient(Alone())
    gap = max(largest_gap(f, expected) for f in on_stand_ins(2, lambda r: gradient(wrong(r.rank, r._table))))
    assert gap > 1e-2


# -- shares, sums, stand-ins ----------------------------------------------------------------------------------------


@every(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_every_row_is_one_ranks_in_order_and_nobody_has_much_more(lengths, size):
    """A row is its rank's by its middle, so a share begins within half of the longest row of where it is due to."""
    found = shares(lengths, size)
    assert len(found) == size
    assert [row for share in found for row in share] == list(range(len(lengths)))
    due, longest = sum(lengths) / size, max(lengths, default=0)
    begun = [sum(lengths[: share.start]) for share in found]
    assert all(abs(begin - rank * due) <= longest / 2 + 1e-9 for rank, begin in enumerate(begun))


def test_alone_everything_is_ones_own():
    alone, batch = Alone(), object()
    assert alone.share(batch) is batch
    assert (alone.gather(3), alone.size, alone.rank) == ([3], 1, 0)
    assert sum_numbers(alone, {"loss": 2.0}) == {"loss": 2.0}


def test_stand_ins_sum_and_gather_by_rank():
    def work(ranks):
        mine = torch.full((2,), 10.0**ranks.rank)
        ranks.sum([mine])
        return mine.tolist(), ranks.gather(ranks.rank), sum_numbers(ranks, {"loss": ranks.rank + 0.5})

    assert on_stand_ins(3, work) == [([111.0, 111.0], [0, 1, 2], {"loss": 4.5})] * 3


def test_what_one_rank_raises_is_raised_and_the_others_do_not_wait():
    def work(ranks):
        if ranks.rank == 1:
            raise KeyError("lost")
        ranks.gather(0)

    with pytest.raises(KeyError, match="lost"):
        on_stand_ins(3, work)


def test_ranks_share_a_batch_whose_rows_stand_in_order():
    subject = learner(GRPO)
    batch = subject.prepare(random_groups(4, 3))
    parts = on_stand_ins(3, lambda ranks: ranks.share(batch))
    assert tuple(r for part in parts for r in part.rollouts) == batch.rollouts
    assert torch.equal(torch.cat([p.advantage_NT for p in parts]), batch.advantage_NT)
    assert replace(parts[0], rollouts=()).limit == batch.limit
