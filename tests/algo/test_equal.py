"""Rewards that are equal up to rounding are equal everywhere, and teach nothing."""

from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.advantage import GAE, BatchZScore, GroupZScore, group_mean, leave_one_out, whitened
from upslope.algo.equal import ROUNDINGS, alike, all_alike
from upslope.algo.family import FAMILY, REINFORCE
from upslope.algo.sample import Attempts, mixed
from upslope.learn.prepare import judge, to_batch
from upslope.training import metrics
from upslope.training.short_of import why_short

SUMS = {
    "the same": [0.3] * 8,
    "other terms": [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2],  # 0.30000000000000004 and 0.3
    "other order": [0.7 + 0.2 + 0.1, 1.0, 0.1 + 0.2 + 0.7],  # 0.9999999999999999, 1.0, 1.0
    "large": [1e6, 1e6 + 0.25],  # four last places of a float32 there are 0.48
    "negative": [-0.3, -(0.1 + 0.2)],
    "zeros": [0.0, -0.0, 0.0],
}
APART = {
    "one": [1.0, 0.0],
    "a thousandth": [0.3, 0.3003],
    "tiny": [1e-12, 2e-12],
    "eight places": [1.0, 1.0 + 2.0**-20],
}
ADVANTAGES = {
    "group mean": group_mean,
    "leave one out": leave_one_out,
    "z-score": GroupZScore(),
    "z-score without eps": GroupZScore(eps=0.0),
    "population": GroupZScore(eps=0.0, std="population"),
    "batch": BatchZScore(),
    "batch without eps": BatchZScore(eps=0.0),
    "batch by group": BatchZScore(centre="group"),
}
DTYPES = (torch.float32, torch.float64)


def of(rewards, lengths=(3, 1, 2)):
    return group("p", [1], [[5] * lengths[i % len(lengths)] for i in range(len(rewards))], rewards)


def advantages(made, advantage, dtype):
    batch = to_batch([made], torch.device("cpu"), dtype)
    return judge(batch, REINFORCE.patch(advantage=advantage)).advantage_NT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("rewards", SUMS.values(), ids=SUMS)
def test_equal_up_to_rounding_has_no_advantage_at_all(rewards, name, dtype):
    """With eps = 0 too: a difference of one last place divided by its own deviation would be an advantage of 1. 0.3 in
    float32 is below its mean by a rounding that, over itself plus 1e-8, gives |A| = 0.75."""
    found_NT = advantages(of(rewards), ADVANTAGES[name], dtype)
    assert not found_NT.any() and found_NT.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("rewards", APART.values(), ids=APART)
def test_what_differs_has_an_advantage(rewards, name, dtype):
    found_NT = advantages(of(rewards), ADVANTAGES[name], dtype)
    assert found_NT[:, 0].all() and found_NT.isfinite().all()


@pytest.mark.parametrize("rewards", [*SUMS.values(), *APART.values()])
def test_the_filter_the_journal_and_the_comparison_agree(rewards):
    """A group is kept as mixed, counted as unequal and compared as unequal, or none of it."""
    made = of(rewards)
    equal = mixed(made) is None
    assert equal == all_alike(rewards)
    assert metrics.of_attempts([made, of([1.0, 0.0])], imitates=False)["equal_groups"] == (0.5 if equal else 0)
    for dtype in DTYPES:
        assert equal == (not advantages(made, GroupZScore(eps=0.0), dtype).any())
    told = "(1 problems had" if equal and min(rewards) > 0 else "(0 problems had"
    assert told in why_short([made], [], 1, Attempts(keep=mixed, refill=1.0), 0, 9)


def test_the_answer_is_the_same_in_float32_and_float64_whatever_the_difference():
    """Sweep the difference through the bound in steps that float32 cannot tell apart."""
    for top in (0.3, 1.0, 3.7, 1e5):
        for k in range(1, 200):
            pair = torch.tensor([top, top * (1 - k * ROUNDINGS / 100)], dtype=torch.float64)
            here = bool(alike(*pair))
            assert here == bool(alike(*pair.float())) == all_alike(pair.tolist())
        assert not all_alike([top, top * (1 - 1.3 * ROUNDINGS)]) and all_alike([top, top * (1 - 0.7 * ROUNDINGS)])


def test_an_empty_group_is_neither():
    assert mixed(of([])) is None
    assert metrics.of_attempts([of([])], imitates=False)["equal_groups"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_right_leave_no_noise_to_whiten(dtype):
    """Outcomes of 0.3 and a critic that says so, but for the last place: A is that place, and whitened nothing."""
    batch = to_batch([of([0.3] * 4)], torch.device("cpu"), dtype)
    value_NT = torch.where(batch.mask_NT, torch.tensor(0.3, dtype=dtype), 0)
    value_NT[0] *= 1 + 2.0**-23
    judged = judge(replace(batch, value_NT=value_NT), REINFORCE.patch(advantage=GAE()))
    assert not judged.advantage_NT.any()


def test_whitening_keeps_a_small_difference_of_small_numbers():
    mask = torch.ones(1, 2, dtype=torch.bool)
    got = whitened(torch.tensor([[1e-3, 3e-3]]), mask, eps=0.0)
    torch.testing.assert_close(got, torch.tensor([[-1.0, 1.0]]))
    assert not whitened(torch.tensor([[1e-3, 3e-3]]), mask, size=torch.tensor(1e5)).any()


COMPARES = [n for n, b in FAMILY.items() if b.recipe.acts and not b.recipe.needs - {"old_logp", "sampler_logp"}]


@pytest.mark.parametrize("name", [n for n in COMPARES if n not in ("reinforce", "rft")])
def test_no_recipe_that_compares_makes_something_of_equal_rewards(name):
    recipe = FAMILY[name].recipe
    batch = to_batch([of([0.1 + 0.2, 0.3]), of([0.3] * 3)], torch.device("cpu"), torch.float64)
    assert not judge(batch, recipe).advantage_NT.any()
