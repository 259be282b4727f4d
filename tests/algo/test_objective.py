"""The shared objective: masking, and what it does not do."""

from dataclasses import replace

import pytest
import torch
from tiny import group

from upslope.algo.aggregate import token_mean
from upslope.algo.family import FAMILY, REINFORCE
from upslope.algo.objective import Objective
from upslope.algo.outcome import Scored, Trace
from upslope.learn.prepare import judge, to_batch, weigh

CPU = torch.device("cpu")


def ragged(recipe=REINFORCE, rewards=(1.0, 0.0)):
    """Two rollouts, 3 tokens and 1, with everything any recipe needs."""
    b = to_batch([group("p", [1], [[5, 6, 7], [8]], rewards, [[-1.0, -2.0, -0.5], [-0.3]])], CPU, torch.float64)
    b = replace(b, old_logp_NT=b.sampler_logp_NT, reference_logp_NT=b.sampler_logp_NT - 0.1 * b.mask_NT)
    b = replace(b, old_entropy_NT=-b.sampler_logp_NT, value_NT=0.3 * b.mask_NT)
    return weigh(judge(b, recipe), recipe)


def scored(logp_NT, value_NT=None):
    zeros = torch.zeros_like(logp_NT)
    return Scored(logp_NT, zeros, zeros, zeros if value_NT is None else value_NT)


def test_reinforce_by_hand():
    """loss = -(1/N) sum_n R_n sum_t logp: N = 2, only the first has a reward: -(1/2)(-1 - 2 - 0.5) = 1.75."""
    b = ragged()
    losses, _ = Objective(REINFORCE)(scored(b.sampler_logp_NT), b)
    assert losses.policy.item() == pytest.approx(1.75)
    assert losses.value is None


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_poison_in_padding_reaches_neither_value_nor_gradient(name, poison):
    """Pitfall 17: NaN times a zero mask is NaN, forwards and backwards."""
    recipe = FAMILY[name].recipe
    b = ragged(recipe)
    clean = b.sampler_logp_NT.clone().requires_grad_()
    expected, _ = Objective(recipe)(scored(clean), b)
    expected.total.backward()

    dirty = torch.where(b.mask_NT, b.sampler_logp_NT, poison).requires_grad_()
    losses, _ = Objective(recipe)(scored(dirty, torch.where(b.mask_NT, torch.zeros_like(b.sampler_logp_NT), poison)), b)
    losses.total.backward()
    assert losses.total.item() == expected.total.item()
    assert torch.equal(dirty.grad[b.mask_NT], clean.grad[b.mask_NT])
    assert not dirty.grad[~b.mask_NT].any()


def test_a_fully_masked_row_adds_nothing_and_breaks_nothing():
    b = ragged(REINFORCE.patch(aggregate=token_mean), rewards=(1.0, 1.0))
    hidden = b.mask_NT.clone()
    hidden[1] = False
    b = judge(replace(b, mask_NT=hidden), REINFORCE)
    b = replace(b, weight_NT=token_mean(b))
    losses, _ = Objective(REINFORCE)(scored(b.sampler_logp_NT), b)
    assert losses.policy.item() == pytest.approx(3.5 / 3)


def test_traces_of_parts_join_to_the_trace_of_the_whole():
    b = ragged()
    objective = Objective(REINFORCE)
    entropy = torch.rand(b.mask_NT.shape, dtype=torch.float64)
    _, whole = objective(Scored(b.sampler_logp_NT, entropy), b)
    parts = [objective(Scored(b.take([i]).sampler_logp_NT, entropy[[i]]), b.take([i]))[1] for i in range(2)]
    joined = Trace.join(parts)
    assert all(torch.equal(getattr(joined, f), getattr(whole, f)) for f in ("logp_NT", "entropy_NT", "ratio_NT"))
    assert Trace.join([]) is None
