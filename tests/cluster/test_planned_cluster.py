"""The simulated cluster: places, ages, failures, and what they cost."""

from __future__ import annotations

import builtins
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from upslope.cluster.planning.flight import Flight
from upslope.cluster.planning.learning import SimulatedLearner
from upslope.cluster.planning.lengths import AddressedLengths, KeptLengths, LognormalLengths, mean_length
from upslope.cluster.planning.outcome import SimulatedRun
from upslope.cluster.planning.setup import SimulatedSetup
from upslope.cluster.planning.simulate import simulate
from upslope.cluster.planning.times import MeasuredTimes
from upslope.cluster.slots import Slots
from upslope.errors import UserError

pytest.importorskip("simpy")

TIMES = MeasuredTimes(step=0.01, row=0.0, fixed=0.2, token=0.0, share=1.0, load=0.0)
"""A position takes 10 ms however many attempts there are, an update 0.2 s."""
DRAWN = AddressedLengths(LognormalLengths(20.0, 0.6, 64))


def setup(**changes: Any) -> SimulatedSetup:
    """Two samplers beside a learner, eight problems a step of four attempts."""
    base = SimulatedSetup(TIMES, DRAWN, 8, samplers=2, problems=8, group_size=4, rows=64, steps=10)
    return replace(base, **changes)


def everything_once(run: SimulatedRun, steps: int, problems: int) -> bool:
    return Counter(run.learnt) == Counter(range(steps * problems))


# -- by hand --------------------------------------------------------------------------------------------------------


def test_one_worker_takes_turns_as_worked_out_by_hand() -> None:
    """All attempts have 30 tokens: 0.3 s of sampling, then 0.2 s of learning, and nobody has anything to do beside."""
    run = simulate(setup(samplers=0, lengths=AddressedLengths(KeptLengths([30], 64))))
    assert run.seconds_a_step == pytest.approx(0.5)
    assert run.learner == pytest.approx({"updating": 0.4, "waiting": 0.6, "down": 0.0})
    assert run.sampler == pytest.approx({"writing": 0.6, "prompts": 0, "loading": 0, "idle": 0.4, "down": 0})
    assert run.tokens_per_s == pytest.approx(8 * 4 * 30 / 0.5)
    assert run.rows == pytest.approx(32)
    assert run.ages == {0: 80}


def test_a_step_old_the_learner_and_the_samplers_work_at_once() -> None:
    """0.3 s of sampling beside 0.2 s of learning."""
    run = simulate(setup(staleness=1, lengths=AddressedLengths(KeptLengths([30], 64)), steps=30))
    assert run.seconds_a_step == pytest.approx(0.25, abs=0.06)  # between the learner's 0.2 and sampling's 0.3
    assert run.seconds_a_step < 0.31


def test_seconds_count_prompts_transfer_scoring_and_rows() -> None:
    fixed = AddressedLengths(KeptLengths([30], 64))
    slow = replace(TIMES, load=0.1)
    assert simulate(setup(times=slow, lengths=fixed)).seconds_a_step == pytest.approx(0.5 + 0.2)  # two hand-overs deep
    assert simulate(setup(lengths=fixed, reward_seconds=0.05)).seconds_a_step == pytest.approx(0.55)
    # 32 attempts end at once, two processes score them: 16 x 0.05
    assert simulate(setup(lengths=fixed, reward_seconds=0.05, rewards=2)).seconds_a_step == pytest.approx(0.5 + 0.8)
    # 8 of the 16 attempts of each sampler fit at a time: two waves
    assert simulate(setup(lengths=fixed, rows=8)).seconds_a_step == pytest.approx(0.8)
    assert simulate(setup(lengths=fixed, times=WithPrompts())).seconds_a_step == pytest.approx(0.5 + 4 * 0.01)


class WithPrompts(MeasuredTimes):
    """Each prompt takes 10 ms; a sampler has four of the eight."""

    def __init__(self) -> None:
        super().__init__(**vars(TIMES))

    def prompt(self, tokens: int) -> float:
        return 0.01


# -- what the scheduler promises ------------------------------------------------------------------------------------

AGES = [0, 1, 2, 4]


@pytest.mark.parametrize("samplers", [1, 3, 20])
@pytest.mark.parametrize("staleness", AGES)
def test_nothing_is_older_than_allowed_and_everything_is_learnt_once(samplers: int, staleness: int) -> None:
    run = simulate(setup(samplers=samplers, staleness=staleness))
    assert max(run.ages) <= staleness
    assert everything_once(run, 10, 8)
    assert run.learnt == tuple(range(80))  # in order
    assert sum(run.ages.values()) == 80


def test_samplers_that_can_run_ahead_do() -> None:
    """Where learning is the slower part, samplers reach the age that is allowed."""
    run = simulate(setup(samplers=8, staleness=2, times=replace(TIMES, fixed=2.0)))
    assert max(run.ages) == 2 and run.ages[2] > 40


def test_more_places_than_slots_allow_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation goes by the very class that the run goes by: with a place too many for each problem, ages grow."""
    monkeypatch.setattr(Slots, "free", property(lambda self: (self.staleness + 2) * self.per_step - self.taken))
    run = simulate(setup(samplers=8, staleness=1, times=replace(TIMES, fixed=2.0)))
    assert max(run.ages) == 2


def test_places_given_back_twice_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slots, "learnt", lambda self, num: setattr(self, "taken", self.taken - 2 * num))
    assert max(simulate(setup(samplers=8, staleness=1, times=replace(TIMES, fixed=2.0))).ages) > 1


def test_without_staleness_samplers_are_idle_while_the_learner_learns() -> None:
    run = simulate(setup(staleness=0))
    assert run.sampler["idle"] >= run.learner["updating"] - 1e-9
    assert run.learner["updating"] + run.learner["waiting"] == pytest.approx(1)
    beside = simulate(setup(staleness=2))
    assert beside.sampler["idle"] < beside.learner["updating"]


def test_throughput_grows_with_staleness_and_saturates() -> None:
    rates = [
        simulate(setup(staleness=s, steps=40, times=replace(TIMES, fixed=0.4))).tokens_per_s for s in (0, 1, 2, 4, 8)
    ]
    assert rates[1] > 1.3 * rates[0]
    assert all(after >= before * 0.98 for before, after in itertools.pairwise(rates))
    assert rates[4] == pytest.approx(rates[3], rel=0.03)
    limit = 32 * mean_length(DRAWN.lengths) / 0.4  # the learner never waits
    assert rates[4] == pytest.approx(limit, rel=0.05)


# -- failures -------------------------------------------------------------------------------------------------------

FAILING = setup(samplers=4, staleness=2, steps=30, hours_between_failures=3 / 3600, restart_seconds=1.0, save_every=3)


def test_a_failure_loses_no_sample_and_none_is_trained_twice() -> None:
    run = simulate(FAILING)
    assert run.sampler_failures > 3 and run.learner_failures > 0 and run.steps_lost > 0
    assert everything_once(run, 30, 8)
    assert run.learnt == tuple(range(240))
    assert max(run.ages) <= 2
    assert len(run.times) == 30 and list(run.times) == sorted(run.times)


def test_failures_cost_time() -> None:
    whole = simulate(replace(FAILING, hours_between_failures=0.0))
    failing = simulate(FAILING)
    assert failing.seconds_a_step > 1.2 * whole.seconds_a_step
    assert failing.sampler["down"] > 0.01 and failing.learner["down"] > 0.01
    assert (whole.steps_lost, whole.sampler_failures, whole.learner_failures) == (0, 0, 0)
    assert failing.steps_lost <= 3 * failing.learner_failures  # at most what was not saved, and here the one under way


def test_attempts_that_are_lost_and_not_made_again_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedLearner, "fail", lambda self: None)
    assert everything_once(simulate(replace(FAILING, steps=10)), 10, 8)
    monkeypatch.setattr(Flight, "lost", lambda self, pieces: None)
    with pytest.raises(UserError, match="gets nowhere"):  # the learner waits for ever
        simulate(replace(FAILING, steps=10))


def test_an_attempt_that_is_made_again_has_the_same_length() -> None:
    lengths = [DRAWN.of(problem, sample) for problem in range(5) for sample in range(4)]
    assert lengths == [DRAWN.of(problem, sample) for problem in range(5) for sample in range(4)]
    assert len(set(lengths)) > 5
    assert lengths != [replace(DRAWN, seed=1).of(p, s) for p in range(5) for s in range(4)]


def test_a_cluster_that_gets_nowhere_is_told() -> None:
    with pytest.raises(UserError, match="gets nowhere: its 3 workers failed"):
        simulate(setup(hours_between_failures=0.01 / 3600, restart_seconds=0.001, steps=2))


def test_a_run_repeats_and_another_seed_differs() -> None:
    assert simulate(FAILING) == simulate(FAILING)
    assert simulate(FAILING).times != simulate(replace(FAILING, seed=1)).times


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_staleness_needs_a_sampler() -> None:
    with pytest.raises(ValueError, match="needs samplers beside the learner"):
        setup(samplers=0, staleness=1)


def test_without_simpy_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "simpy":
            raise ImportError(name)
        return load(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'upslope\[plan\]'"):
        simulate(setup())


def test_the_limit_is_named() -> None:
    assert simulate(setup(staleness=4, times=replace(TIMES, fixed=3.0))).limit == "the learner"
    assert simulate(setup(staleness=4, samplers=1, times=replace(TIMES, fixed=0.01), rows=8)).limit == "the samplers"
    assert simulate(setup(staleness=0)).limit.startswith("taking turns")
    assert simulate(replace(FAILING, hours_between_failures=2 / 3600)).limit == "failures"
    assert simulate(setup(staleness=1, times=replace(TIMES, fixed=0.1, load=0.5))).limit == "handing over weights"


def test_lengths() -> None:
    assert mean_length(LognormalLengths(100.0, 0.8, 10**6)) == pytest.approx(100, rel=0.02)
    cut = LognormalLengths(100.0, 0.8, 120)
    assert cut.at(0.999) == 120 and cut.at(0.0) == 1 and mean_length(cut) < 90
    with pytest.raises(UserError, match="give --mean-tokens"):
        KeptLengths([], 8)
