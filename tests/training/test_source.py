"""The order of problems: a function of seed and step."""

import pytest

from upslope.errors import UserError
from upslope.training.source import MixedDemonstrations, Shuffled
from upslope.types import Problem

ITEMS = [f"i{n}" for n in range(10)]


def steps(num, count, seed=0):
    source = Shuffled(ITEMS, seed, "training problems")
    return [source.take(step, num) for step in range(count)]


def test_every_pass_shows_every_item_once_in_an_order_of_its_own():
    taken = steps(num=5, count=6)
    passes = [taken[i] + taken[i + 1] for i in (0, 2, 4)]
    assert all(sorted(p) == ITEMS for p in passes)
    assert passes[0] != passes[1] != passes[2]


def test_no_step_holds_an_item_twice_also_where_a_pass_ends():
    assert all(len(set(step)) == 4 for step in steps(num=4, count=25))


def test_a_resumed_run_sees_what_it_would_have_seen():
    assert Shuffled(ITEMS, 0, "training problems").take(7, 3) == steps(num=3, count=8)[7]
    assert steps(num=3, count=8, seed=1) != steps(num=3, count=8)


def test_more_than_there_is_in_one_step_is_one_clear_line():
    with pytest.raises(UserError, match="a step wants 11 training problems, and the task has 10"):
        Shuffled(ITEMS, 0, "training problems").take(0, 11)


def test_a_mixture_holds_no_demonstration_twice_in_a_step_also_where_a_pass_ends():
    rows = [[Problem(f"{name}{i}", ()) for i in range(num)] for name, num in (("a", 50), ("b", 8))]
    orders = set()
    for seed in range(4):
        mixture = MixedDemonstrations([(0.5, rows[0]), (0.5, rows[1])], seed)
        steps = [[p.id for p in mixture.take(step, 7)] for step in range(100)]
        assert all(len(set(step)) == 7 for step in steps)
        drawn = [i for step in steps for i in step if i[0] == "b"]
        passes = [drawn[begin : begin + 8] for begin in range(0, 320, 8)]
        assert all(sorted(one) == [f"b{i}" for i in range(8)] for one in passes)
        orders |= {tuple(one) for one in passes}
    assert len(orders) > 120
