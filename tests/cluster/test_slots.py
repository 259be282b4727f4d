"""How far sampling may run ahead, weights as parcels, requests shared out: all that needs no other process."""

import threading

import pytest
import torch

from upslope.algo.sample import Attempts
from upslope.cluster.ahead import Ahead, age
from upslope.cluster.parcel import Parcel
from upslope.cluster.remote_sampler import by_problem
from upslope.cluster.slots import Slots
from upslope.model.digest import weights_digest
from upslope.rollout.base import Request
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.collect import Collected
from upslope.types import Group, Problem, Rollout


def rollout(version, num=2, versions=None):
    return Rollout("p", 0, (1,), (2,) * num, (True,) * num, (0.0,) * num, version, "stop", "", versions=versions)


class Scripted:
    """A collector that notes when it is asked, and with which version of the weights."""

    blocks, overlaps = None, False

    def __init__(self, fail_at=None):
        self.version, self.asked, self._fail_at = 0, [], fail_at
        self.going = threading.Event()

    def __call__(self, sample, step, progress=None):
        if step == self._fail_at:
            raise ValueError(f"step {step}")
        self.asked.append((step, self.version))
        self.going.set()
        group = Group(Problem("p", ()), (rollout(self.version),))
        return Collected([group], [group])

    def state(self):
        return {"asked": len(self.asked)}


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_sample_is_older_than_the_staleness(staleness):
    """The learner is slow and the sampler quick: everything that may be begun is begun, and nothing is too old."""
    inner = Scripted()
    ahead = Ahead(inner, staleness, per_step=4, last=9)
    for step in range(10):
        found = ahead(Attempts(), step)
        assert found.told["age_max"] <= staleness
        wanted = min(step + staleness, 9) + 1
        while len(inner.asked) < wanted:  # it gets as far ahead as it may
            inner.going.wait(timeout=5)
            inner.going.clear()
        assert len(inner.asked) == wanted
        inner.version = step + 1  # the update of this step is done
    assert [step for step, _ in inner.asked] == list(range(10))
    assert max(step - version for step, version in inner.asked) == staleness
    ahead.leave()


def test_what_collecting_raises_is_raised_at_its_own_step():
    ahead = Ahead(Scripted(fail_at=2), 3, per_step=1, last=9)
    for step in (0, 1):
        ahead(Attempts(), step)
    with pytest.raises(ValueError, match="step 2"):
        ahead(Attempts(), 2)


def test_a_checkpoint_knows_nothing_of_steps_ahead():
    """Two steps are collected before the first is handed out, and the state is the one after the first."""
    inner = Scripted()
    ahead = Ahead(inner, 1, per_step=1, last=5)
    ahead(Attempts(), 0)
    while len(inner.asked) < 2:
        inner.going.wait(timeout=5)
        inner.going.clear()
    assert ahead.state() == {"asked": 1}
    ahead.leave()


def test_the_age_of_tokens():
    """Two tokens of version 3, and one each of 2 and 1, learnt from at step 4: ages 1, 1, 2, 3; mean 7 / 4."""
    mixed = Group(Problem("p", ()), (rollout(3), rollout(2, versions=(2, 1))))
    assert age(Collected([mixed], [mixed]), 4) == {"age_mean": 1.75, "age_max": 3.0}


def test_places_are_given_back_once():
    slots = Slots(staleness=1, per_step=2)
    assert slots.begin(3) == 3
    slots.learnt(2)
    assert slots.free == 3
    with pytest.raises(ValueError, match="2 problems were learnt from, and only 1 were begun"):
        slots.learnt(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_arrive_as_they_were_sent(dtype):
    weights = {"b": torch.randn(3, 5).to(dtype), "a": torch.randn(4).to(dtype), "t": torch.randn(5, 3).to(dtype).T}
    parcel = Parcel.of(weights, 7)
    found = parcel.weights()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert parcel.checksum == weights_digest(found)
    weights["a"][0] += 1  # what happens to them later does not show
    assert not torch.equal(parcel.weights()["a"], weights["a"])
    assert weights_digest(weights) != parcel.checksum


def test_no_problem_is_divided():
    requests = [Request(problem, sample, (1,)) for problem in "abcde" for sample in range(3)]
    shares = by_problem(requests, 2)
    assert sorted(place for share in shares for place in share) == list(range(15))
    assert [len(share) for share in shares] == [6, 9]
    owners = [{requests[place].problem_id for place in share} for share in shares]
    assert not owners[0] & owners[1]
    assert by_problem(requests[:3], 2) == [[], [0, 1, 2]]  # one problem, whose middle is the middle


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shard": True}, "shard = true needs several learners"),
        ({"staleness": 2}, "staleness = 2 needs samplers that go on"),
        ({"samplers": -1}, "samplers = -1 must be at least 0"),
    ],
)
def test_settings_that_make_no_sense(given, said):
    with pytest.raises(ValueError, match=said):
        ClusterSettings(**given)
