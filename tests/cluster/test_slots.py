"""How far sampling may run ahead, weights as parcels, requests shared out: all that needs no other process."""

import threading

import pytest
import torch

from upslope.algo.sample import Attempts
from upslope.cluster.ahead import Ahead, age
from upslope.cluster.parcel import Parcel
from upslope.cluster.remote_sampler import by_problem
from upslope.cluster.slots import Slots
from upslope.errors import UserError
from upslope.model.digest import weights_digest
from upslope.record.checkpoint import Checkpoint
from upslope.record.drawn import DrawnStep, write_drawn
from upslope.rollout.base import Request
from upslope.training.cluster_settings import ClusterSettings
from upslope.training.collect import Collected
from upslope.training.drawn import AlreadyDrawn, with_drawn
from upslope.training.resuming import require_changeable
from upslope.types import Group, Problem, Rollout


def rollout(version, num=2, versions=None):
    return Rollout("p", 0, (1,), (2,) * num, (True,) * num, (0.0,) * num, version, "stop", "", versions=versions)


class Scripted:
    """A collector that notes when it is asked, and with which version of the weights."""

    blocks, overlaps = None, False

    def __init__(self, fail_at=None, hold_at=None):
        self.version, self.asked, self._fail_at, self._hold_at = 0, [], fail_at, hold_at
        self.going, self.go_on = threading.Event(), threading.Event()

    def __call__(self, sample, step, progress=None):
        if step == self._fail_at:
            raise ValueError(f"step {step}")
        self.asked.append((step, self.version))
        self.going.set()
        if step == self._hold_at:
            self.go_on.wait(timeout=10)
        group = Group(Problem("p", ()), (rollout(self.version),))
        return Collected([group], [group])

    def state(self):
        return {"asked": len(self.asked)}

    def load(self, sample, state):
        self.asked = [(-1, -1)] * state["asked"]

    def drawn(self, step, patient):
        return ()


def until(inner, num):
    """Wait until so many steps were begun."""
    while len(inner.asked) < num:
        inner.going.wait(timeout=5)
        inner.going.clear()


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_sample_is_older_than_the_staleness(staleness):
    """The learner is slow and the sampler quick: everything that may be begun is begun, and nothing is too old."""
    inner = Scripted()
    ahead = Ahead(inner, staleness, per_step=4, last=9)
    for step in range(10):
        found = ahead(Attempts(), step)
        assert found.told["age_max"] <= staleness
        wanted = min(step + staleness, 9) + 1
        until(inner, wanted)  # it gets as far ahead as it may
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


def always():
    return True


def never():
    return False


def test_a_checkpoint_knows_of_each_step_what_was_known_after_it():
    """Three steps are collected before the first is handed out. The state is the one after the first; those ahead come
    with theirs, and the first is among them as long as it may not have been learnt from."""
    inner = Scripted()
    ahead = Ahead(inner, 2, per_step=1, last=5)
    ahead(Attempts(), 0)
    until(inner, 3)
    assert ahead.state() == {"asked": 1}
    assert [(made.step, made.state["asked"]) for made in ahead.drawn(1, always)] == [(1, 2), (2, 3)]
    assert [made.step for made in ahead.drawn(0, always)] == [0, 1, 2]
    ahead(Attempts(), 1)  # and may break off before it is learnt from
    assert [made.step for made in ahead.drawn(1, always)][:2] == [1, 2]
    ahead.leave()


def test_a_checkpoint_waits_for_the_step_that_is_being_sampled_and_for_no_other():
    """Of four steps that may be begun the third is held up. Whoever cannot wait gets the second alone; whoever can gets
    the third as well, and not the fourth, which may begin only then."""
    inner = Scripted(hold_at=2)
    ahead = Ahead(inner, 3, per_step=1, last=9)
    ahead(Attempts(), 0)
    until(inner, 3)
    assert [made.step for made in ahead.drawn(1, never)] == [1]
    threading.Timer(0.3, inner.go_on.set).start()
    assert [made.step for made in ahead.drawn(1, always)] == [1, 2]
    until(inner, 4)  # it goes on
    ahead.leave()


def test_a_checkpoint_does_not_wait_for_what_failed():
    inner = Scripted(fail_at=2)
    ahead = Ahead(inner, 3, per_step=1, last=9)
    ahead(Attempts(), 0)
    until(inner, 2)
    assert [made.step for made in ahead.drawn(1, always)] == [1]
    with pytest.raises(ValueError, match="step 2"):
        (ahead(Attempts(), 1), ahead(Attempts(), 2))


def there(step):
    """Drawn one version earlier."""
    group = Group(Problem("p", ()), (rollout(step - 1),))
    return DrawnStep(step, (group,), (group,), {"known": step / 4}, {"asked": 10 + step})


@pytest.mark.parametrize("staleness", [0, 2])
def test_what_was_drawn_ahead_is_handed_out_before_anything_is_sampled(staleness):
    """Steps 3 and 4 are there, of versions 2 and 3. The collector is asked for step 5, and knows by then what it knew
    after step 4; a second checkpoint holds what is left."""

    inner = Scripted()
    inner.version = 3
    collect = AlreadyDrawn(inner, [there(3), there(4)])
    if staleness:
        collect = Ahead(collect, staleness, per_step=1, last=9)
    found = collect(Attempts(), 3)
    assert found.attempted == list(there(3).attempted) and found.told["known"] == 0.75
    assert collect.state() == {"asked": 13}
    assert [made.step for made in collect.drawn(4, always)][:1] == [4]
    assert collect.drawn(4, always)[0] == there(4)
    assert collect(Attempts(), 4).kept == list(there(4).kept)
    assert collect.state() == {"asked": 14}
    collect(Attempts(), 5)
    assert inner.asked[:14] == [(-1, -1)] * 14  # loaded
    assert inner.asked[14] == (5, 3) and collect.state() == {"asked": 15}
    if staleness:
        collect.leave()


class OfOne:
    """A task of one problem."""

    def __init__(self, name):
        self._name = name

    def problems(self, split):
        return [Problem(self._name, ())] if split == "train" else []


@pytest.mark.parametrize(
    ("task", "staleness", "left", "said"),
    [
        (OfOne("p"), 2, [3, 4], ""),
        (OfOne("p"), 1, [3], "attempts for step 4 that are older than cluster.staleness = 1 allows; they are sampled"),
        (OfOne("p"), 0, [], "attempts for step 3 that are older than cluster.staleness = 0 allows; they are sampled"),
        (OfOne("q"), 2, [], "attempts at problem p, which the task does not have any more; what was sampled ahead is"),
    ],
)
def test_what_cannot_be_learnt_from_any_more_is_sampled_anew(tmp_path, task, staleness, left, said):
    """Step 3 was drawn by version 2 and step 4, as old as may be, by version 2 as well."""
    later = there(3)
    write_drawn(tmp_path, [there(3), DrawnStep(4, later.attempted, later.kept, {}, {"asked": 14})])
    heard, inner = [], Scripted()
    collect = with_drawn(inner, Checkpoint(tmp_path, 3, {}), task, staleness, heard.append)
    assert [made.step for made in collect.drawn(3, always)] == left
    assert (collect is inner) == (not left)
    assert len(heard) == bool(said) and said in "".join(heard)


def test_a_checkpoint_without_any_changes_nothing(tmp_path):
    inner = Scripted()
    assert with_drawn(inner, Checkpoint(tmp_path, 3, {}), OfOne("p"), 1, print) is inner


def test_a_resumed_run_keeps_its_staleness():
    with pytest.raises(UserError, match=r"its own cluster\.staleness"):
        require_changeable(["cluster.staleness"])
    require_changeable(["cluster.samplers"])


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
        (
            {"samplers": 1, "in_flight": True},
            "in_flight = true needs attempts that are written while the learner learns",
        ),
        ({"samplers": -1}, "samplers = -1 must be at least 0"),
    ],
)
def test_settings_that_make_no_sense(given, said):
    with pytest.raises(ValueError, match=said):
        ClusterSettings(**given)
