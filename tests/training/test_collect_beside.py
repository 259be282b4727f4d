"""Attempts are sampled in another thread while the main thread scores those that are complete: the attempts are the
same, rewards may do whatever needs the main thread, and whatever goes wrong on either side ends both soon."""

import os
import signal
import threading
import time
import traceback
from dataclasses import replace

import pytest
import torch
from tiny import drawn, policy, problems

from upslope.algo.sample import Attempts
from upslope.errors import NonFinite, UserError
from upslope.rollout.address import Address
from upslope.rollout.local import LocalSampler
from upslope.tasks.base import Task
from upslope.training.collect import Collector
from upslope.types import Sampling, Score

SAMPLING = Sampling(max_tokens=6)


class Toy(Task):
    """Rewards by (problem, response); remembers who was asked about together."""

    name = "toy"

    def __init__(self, reward=lambda p, r: float(len(r))):
        self.reward, self.asked = reward, []

    def problems(self, split):
        return problems(5)

    def demonstrations(self):
        return []

    def documents(self):
        return []

    def score(self, asked, responses):
        self.asked.append([p.id for p in asked])
        return [Score(self.reward(p, r)) for p, r in zip(asked, responses, strict=True)]


def collector(reward=lambda p, r: float(len(r)), subject=None):
    subject = subject or policy()
    return overlapping(Collector(Toy(reward), LocalSampler(subject), subject.renderer, SAMPLING, seed=0, per_step=3))


def overlapping(made):
    """As after a step whose rewards took long."""
    made.overlaps = True
    return made


class Watched(LocalSampler):
    """Calls ``look`` in the sampler's thread, after every token; ``over`` is set when nothing more is sampled."""

    def __init__(self, policy, look=lambda num_tokens, num_rows: None, **how):
        super().__init__(policy, **how)
        self.look, self.over = look, threading.Event()

    def generate(self, requests, sampling, address, progress=None, finished=None):
        def watch(num_tokens, num_rows):
            progress(num_tokens, num_rows)
            self.look(num_tokens, num_rows)

        try:
            return super().generate(requests, sampling, address, watch, finished)
        finally:
            self.over.set()


def watched(reward, look=lambda num_tokens, num_rows: None, max_tokens=6):
    """Three problems, one attempt under way at a time; and how it is collected."""
    subject = policy()
    sampler = Watched(subject, look, max_rows=1)
    return overlapping(
        Collector(Toy(reward), sampler, subject.renderer, Sampling(max_tokens=max_tokens), seed=0, per_step=3)
    ), sampler


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("max_rows", [0, 2])
def test_attempts_are_those_of_the_engine_alone_bit_for_bit(dtype, max_rows):
    subject = policy(dtype=dtype)
    sampler = LocalSampler(subject, max_rows=max_rows)
    for step in range(2):
        got = overlapping(Collector(Toy(), sampler, subject.renderer, SAMPLING, seed=7, per_step=4))(
            Attempts(3), step
        ).attempted
        alone = drawn(subject, [g.problem for g in got], 3, SAMPLING, Address(7, "sample", step), by=sampler)
        assert [[replace(r, score=Score(0.0)) for r in g.rollouts] for g in got] == alone


def test_scoring_and_sampling_run_side_by_side():
    """The first score does not return before sampling went on, and sampling does not end before the score began."""
    began, went_on = threading.Event(), threading.Event()

    def reward(problem, response):
        began.set()
        assert went_on.wait(10)
        return 1.0

    def look(num_tokens, num_rows):
        if num_rows >= 5:  # the first group of 4 is complete
            assert began.wait(10)
            went_on.set()

    slow, _ = watched(reward, look)
    assert len(slow(Attempts(group_size=4), 0).kept) == 3


def test_rewards_and_the_view_have_the_main_thread_with_its_alarms():
    class TooLong(Exception):
        pass

    def ring(_signal, _frame):
        raise TooLong

    def reward(problem, response):
        assert threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        try:
            time.sleep(10)
        except TooLong:
            return 1.0
        finally:
            signal.signal(signal.SIGALRM, before)
        return 0.0

    seen = []

    def progress(num_tokens, num_rows):
        assert threading.current_thread() is threading.main_thread()
        seen.append((num_rows, num_tokens))

    got = collector(reward)(Attempts(2), 0, progress)
    assert all(r.reward == 1 for g in got.attempted for r in g.rollouts)
    assert seen == sorted(seen)
    assert seen[-1] == (6, sum(len(r.response) for g in got.attempted for r in g.rollouts))


def test_groups_that_wait_are_scored_in_one_call():
    """The first group is alone; while it is scored, the two others are completed."""
    began = threading.Event()

    def reward(problem, response):
        began.set()
        assert sampler.over.wait(10)
        return float(problem.id[4:])

    def look(num_tokens, num_rows):
        if num_rows >= 3:
            assert began.wait(10)

    slow, sampler = watched(reward, look)
    got = slow(Attempts(group_size=2), 0).attempted
    first, second, third = (g.problem.id for g in got)
    assert slow._task.asked == [[first] * 2, [second] * 2 + [third] * 2]
    assert all(r.reward == float(g.problem.id[4:]) for g in got for r in g.rollouts)


class Failed(Exception):
    pass


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_reward_that_fails_or_is_interrupted_soon_ends_the_sampling(interrupted):
    failing, late = threading.Event(), []

    def reward(problem, response):
        failing.set()
        if interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        raise Failed("no such answer")

    def look(num_tokens, num_rows):
        if num_rows >= 2:
            assert failing.wait(10)
            time.sleep(0.02)
            late.append(num_tokens)

    broken, sampler = watched(reward, look, max_tokens=100)
    with pytest.raises(KeyboardInterrupt if interrupted else Failed):
        broken(Attempts(group_size=1), 0)
    assert sampler.over.is_set()
    assert len(late) < 20, "of some hundred tokens"


def test_ctrl_c_while_waiting_soon_ends_the_sampling_and_the_next_one_is_as_ever():
    late = []

    def look(num_tokens, num_rows):
        if num_tokens == 20:
            os.kill(os.getpid(), signal.SIGINT)
        if num_tokens > 20:
            time.sleep(0.02)
            late.append(num_tokens)

    stopped, sampler = watched(lambda p, r: 1.0, look, max_tokens=100)
    with pytest.raises(KeyboardInterrupt):
        stopped(Attempts(group_size=3), 0)
    assert sampler.over.is_set()
    assert len(late) < 20, "of many hundred tokens"
    assert collector()(Attempts(2), 1) == collector()(Attempts(2), 1)


def test_a_ctrl_c_that_only_sets_a_flag_changes_nothing():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(threading.current_thread()))
    try:
        asked, _ = watched(lambda p, r: 1.0, lambda num_tokens, _: num_tokens == 3 and os.kill(os.getpid(), 2))
        got = asked(Attempts(group_size=2), 0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [threading.main_thread()]
    assert got == watched(lambda p, r: 1.0)[0](Attempts(group_size=2), 0)


def test_what_the_engine_raises_is_raised_with_its_traceback():
    subject = policy()
    with pytest.raises(UserError, match="do not fit the model's 256 positions"):
        overlapping(Collector(Toy(), LocalSampler(subject), subject.renderer, Sampling(max_tokens=300), 0, 3))(
            Attempts(2), 0
        )
    whole = subject.model.get_output_embeddings().weight.detach().clone()
    subject.model.get_output_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(NonFinite) as raised:
        collector(subject=subject)(Attempts(2), 0)
    assert "draw" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    subject.model.get_output_embeddings().weight.data.copy_(whole)
    assert collector(subject=subject)(Attempts(2), 0) == collector()(Attempts(2), 0)


def test_only_rewards_that_take_long_are_scored_beside(monkeypatch):
    """A step tells the next one. The clock of the test stands still but for the rewards."""
    clock, cost = [0.0], [0.0]
    monkeypatch.setattr("upslope.training.collect.time.perf_counter", lambda: clock[0])
    threads: list[bool] = []

    def reward(problem, response):
        clock[0] += cost[0]
        return 1.0

    class Seen(LocalSampler):
        def generate(self, *args, **kwargs):
            threads.append(threading.current_thread() is threading.main_thread())
            clock[0] += 1.0
            return super().generate(*args, **kwargs)

    subject = policy()
    made = Collector(Toy(reward), Seen(subject), subject.renderer, SAMPLING, seed=0, per_step=3)
    for step, cost[0] in enumerate((0.0, 1.0, 1.0, 0.0, 0.0)):
        made(Attempts(2), step)
    assert threads == [True, True, False, False, True]
