"""The noise of a gradient, by hand, and without bias over everything that could have been drawn."""

import itertools
import math

import pytest
import torch
from tiny import learner, random_groups

from upslope.algo.advantage import GAE
from upslope.algo.critic import OwnCopy
from upslope.algo.family import REINFORCE
from upslope.lab.ladder.variance import ADVANTAGES, Moments, Noise, best_constant, fit, gather, summary
from upslope.learn.prepare import weigh
from upslope.learn.probe import surrogate_gradient


def moments(vectors):
    first, *rest = [Moments.of(torch.tensor(v, dtype=torch.float64)) for v in vectors]
    return sum(rest, start=first)


def test_by_hand():
    """Vectors (1, 0), (3, 0), (2, 3): mean (2, 1); squares 1 + 9 + 13 = 23; noise (23 - 3 x 5) / 2 = 4;
    signal 5 - 4 / 3 = 11 / 3."""
    found = moments([(1.0, 0.0), (3.0, 0.0), (2.0, 3.0)])
    assert found.noise == pytest.approx(4.0)
    assert found.signal == pytest.approx(11 / 3)
    assert found.ratio == pytest.approx(12 / 11)


def test_scale_does_not_matter():
    vectors = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    assert moments(vectors.tolist()).ratio == pytest.approx(moments((7 * vectors).tolist()).ratio)


def test_unbiased_over_all_samples():
    """A vector is one of three with equal chance; over all 3^3 samples of three, the estimates average to the truth."""
    values = torch.tensor([(1.0, 0.0), (0.0, 2.0), (-1.0, 1.0)], dtype=torch.float64)
    truth = values.mean(0)
    spread = float(((values - truth) ** 2).sum(1).mean())
    found = [moments(values[list(pick)].tolist()) for pick in itertools.product(range(3), repeat=3)]
    assert sum(m.noise for m in found) / len(found) == pytest.approx(spread)
    assert sum(m.signal for m in found) / len(found) == pytest.approx(float(truth @ truth))


def test_no_signal_is_endless_noise():
    assert moments([(1.0,), (-1.0,)]).ratio == math.inf


def test_the_best_constant_is_the_bottom_of_the_parabola():
    """Noise 3 + (b - 0.2)^2 at 0, 1/2 and 1."""
    at = {"returns": 3.04, "constant 0.5": 3.09, "constant 1": 3.64}
    noise = [Noise(n, t, 1.0, (1.0, 1.0), 1.0, 4, 8) for n, t in at.items()]
    assert best_constant(noise) == pytest.approx(0.2)
    assert best_constant(noise[:2]) is None


def test_every_advantage_on_the_same_attempts():
    """Gathered sums are those of the batches' own gradients; a multiple of an advantage has its noise; the weights of
    the policy stay where they were."""
    batches = [random_groups(3, 4, seed=s) for s in range(4)]
    recipe = REINFORCE.patch(advantage=GAE(), critic=OwnCopy(warmup=10**9))
    subject = learner(recipe)
    subject.critic.optimizer.num_done = 0  # it warms up, and so learns alone
    before = {n: m.detach().clone() for n, m in subject.optimizer.masters.items()}
    critic = {n: m.detach().clone() for n, m in subject.critic.optimizer.masters.items()}
    fit(subject.learner, recipe, [random_groups(3, 4, seed=9)])
    assert any(not torch.equal(critic[n], m) for n, m in subject.critic.optimizer.masters.items())
    found = {}
    for name, advantage in ADVANTAGES.items():
        halves, explained = gather(subject.learner, REINFORCE.patch(advantage=advantage), batches)
        assert (explained is not None) == (name == "gae")
        reference = found["leave_one_out"][1] if "leave_one_out" in found else (halves[0] + halves[1]).mean
        found[name] = (summary(name, halves, reference, 12, explained), (halves[0] + halves[1]).mean)
    assert all(torch.equal(before[n], m) for n, m in subject.optimizer.masters.items())
    loo, own = found["leave_one_out"][0], found["group_mean"][0]
    assert own.ratio == pytest.approx(loo.ratio) and own.trace < loo.trace
    whole = [weigh(subject.learner.prepare(REINFORCE, g), REINFORCE) for g in batches]
    by_hand = [surrogate_gradient(subject.learner, REINFORCE, batch).double() for batch in whole]
    assert torch.allclose(found["returns"][1], torch.stack(by_hand).mean(0), atol=1e-12)
    assert found["returns"][0].halves[0] == moments([by_hand[0].tolist(), by_hand[2].tolist()]).ratio
