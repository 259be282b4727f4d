"""A machine that is lost with all its processes is named, in time."""

import logging
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

import ray
from ray.exceptions import GetTimeoutError

from upslope.cluster import watchdog
from upslope.cluster.crew import GROUPS, WITH_MACHINE, Member
from upslope.cluster.life import Life, SignOfLife
from upslope.cluster.machines import lost_machines, own_machine


class Quiet:
    """A process that waits for work."""

    def __init__(self):
        self._life = Life(machine=own_machine())

    @ray.method(concurrency_group="watch")
    def sign(self) -> SignOfLife:
        return self._life.sign()


def member(number, **where):
    actor = ray.remote(num_cpus=0, concurrency_groups=GROUPS, **where)(Quiet).remote()
    made = Member(f"sampler {number}", actor)
    made.sign = ray.get(actor.sign.remote(), timeout=300)
    return made


@pytest.fixture
def machines():
    """Two machines, played by two of Ray's own node processes; the second one's, to be lost."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    head = {"num_cpus": 2, "include_dashboard": False, "resources": {"near": 10}}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    far = cluster.add_node(num_cpus=2, resources={"far": 10})
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    yield cluster, far
    ray.shutdown()
    cluster.shutdown()


def waited_for(asked, seconds):
    """Seconds until so; fails after ``seconds``."""
    begun = time.monotonic()
    while not asked():
        assert time.monotonic() - begun < seconds
        time.sleep(0.05)
    return time.monotonic() - begun


class Silent:
    """What stands for a process that does not answer: asking it takes no time, waiting for it all that is given."""

    def __init__(self, waited):
        self.sign = self
        self.remote = lambda: waited


def silent(num, waited, machine="far"):
    sign = SignOfLife(1, "vm", "", 0.0, machine=machine)
    return [Member(f"sampler {number}", Silent(waited), sign) for number in range(num)]


@pytest.fixture
def ended(monkeypatch):
    """Who was ended, where nobody of whom it is asked answers."""

    def get(waited, timeout):
        waited.append(timeout)
        time.sleep(timeout)
        raise GetTimeoutError

    found = []
    monkeypatch.setattr(watchdog, "ray", SimpleNamespace(get=get, wait=None))
    monkeypatch.setattr(watchdog, "end", found.append)
    monkeypatch.setattr(watchdog, "EVERY", 0.05)
    monkeypatch.setattr(watchdog.Watchdog, "_go_round", lambda self: None)  # rounds are made here
    return found


def test_many_who_are_silent_together_are_waited_for_together(ended):
    """One after the other, twenty would take twenty times as long, and the last be named as much later."""
    waited = []
    watch = watchdog.Watchdog(lambda: members, patience=0.2, lost=frozenset)
    members = silent(20, waited)
    watch.look_at_all()
    assert len(waited) == 20 and sum(waited) < 2 * watchdog.EVERY
    assert ended == []
    time.sleep(0.2)
    watch.look_at_all()
    assert ended == [member.actor for member in members]
    assert all("does not answer, for 0 s" in member.ended for member in members)


def test_a_machine_that_ray_has_lost_is_not_waited_for(ended):
    """A stand-in's list of machines."""
    lost, waited = set(), []
    members = silent(2, waited) + silent(1, waited, "near")
    watch = watchdog.Watchdog(lambda: members, patience=600, lost=lambda: frozenset(lost))
    watch.look_at_all()
    assert ended == [] and not any(member.ended for member in members)
    lost.add("far")
    waited.clear()
    watch.look_at_all()
    assert [member.ended for member in members] == [WITH_MACHINE, WITH_MACHINE, ""]
    assert ended == [member.actor for member in members[:2]] and len(waited) == 1


def test_of_learners_that_do_not_get_on_the_one_that_stopped_first_is_named(ended, monkeypatch):
    """The others wait for it within a pass, and have been quiet for nearly as long."""
    quiet = {"learner 1": 11.0, "learner 2": 12.0, "sampler 0": 11.5, "learner 3": 3.0}
    signs = {role: SignOfLife(1, "vm", "a pass", seconds) for role, seconds in quiet.items()}
    monkeypatch.setattr(watchdog.ray, "get", lambda sign, timeout: sign)
    members = [Member(role, Silent(sign), sign) for role, sign in signs.items()]
    watchdog.Watchdog(lambda: members, patience=10, lost=frozenset).look_at_all()
    assert [member.role for member in members if member.ended] == ["learner 2", "sampler 0"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_machine_that_is_lost_is_named_with_its_processes(machines):
    """Of a real one the processes end with it; that their machine did is what is said."""
    cluster, far = machines
    near, *gone = member(0, resources={"near": 1}), member(1, resources={"far": 1})
    watch = watchdog.Watchdog(lambda: [near, *gone], patience=60)
    try:
        assert lost_machines() == frozenset()
        cluster.remove_node(far, allow_graceful=False)
        waited_for(lambda: all(one.ended for one in gone), 60)
    finally:
        watch.stop()
    assert [one.ended for one in gone] == [WITH_MACHINE] and not near.ended
    assert lost_machines() == {gone[0].sign.machine}
