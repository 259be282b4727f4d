"""A job in another thread: all it hands over, in order, its errors, and that it can be stopped."""

import gc
import os
import signal
import threading
import time
import traceback
import weakref
from contextlib import closing

import pytest
import torch

from upslope.training.beside import beside


def everything(job):
    return [item for items in beside(job) for item in items]


def test_all_that_is_handed_over_comes_in_order():
    def count(outlet):
        for number in range(1000):
            outlet.put(number)

    assert everything(count) == list(range(1000))
    assert everything(lambda outlet: None) == []


def test_jobs_are_done_in_one_other_thread_which_is_kept():
    def who(outlet):
        outlet.put(threading.get_ident())

    threads = {ident for _ in range(5) for ident in everything(who)}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_what_waits_is_taken_together_and_waiting_is_told():
    """Nothing comes until the first empty list was seen; then three items wait before the next look."""
    go, made = threading.Event(), threading.Event()

    def job(outlet):
        assert go.wait(10)
        for item in (None, [], "three"):
            outlet.put(item)
        made.set()

    taken = []
    for items in beside(job):
        if not go.is_set():
            assert items == []
            go.set()
            assert made.wait(10)
        taken.append(items)
    assert taken[:2] == [[], [None, [], "three"]]


@pytest.mark.parametrize("error", [LookupError("seven"), SystemExit(3)])
def test_what_the_job_raises_is_raised_here_with_its_traceback(error):
    def culprit(outlet):
        outlet.put(6)
        raise error

    taken = []
    with pytest.raises(type(error)) as raised:
        for items in beside(culprit):
            taken += items
    assert raised.value is error
    assert "culprit" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert everything(lambda outlet: outlet.put(1)) == [1], "the thread outlives an error"


def endless(begun, ended):
    """A job that ends only when it is told to, and ``ended`` says how it did."""

    def job(outlet):
        begun.set()
        try:
            while True:
                outlet.check()
                time.sleep(0.001)
        except BaseException as error:
            time.sleep(0.05)
            ended.append(type(error).__name__)
            raise

    return job


def test_whoever_closes_early_stops_the_job_and_waits_for_it():
    begun, ended = threading.Event(), []
    with pytest.raises(LookupError, match="mine"), closing(beside(endless(begun, ended))) as waiting:
        for _ in waiting:
            if begun.is_set():
                raise LookupError("mine")
    assert ended == ["Left"]


def test_ctrl_c_while_waiting_stops_the_job():
    begun, ended = threading.Event(), []

    def interrupt():
        assert begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=interrupt)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        everything(endless(begun, ended))
    presser.join()
    assert ended == ["Left"]


@pytest.mark.parametrize("num", [2, 1])
def test_the_job_has_as_many_threads_as_torch_has_here(num):
    """A number set in one thread does not reach another that has used torch before."""

    def ask(outlet):
        outlet.put(torch.get_num_threads())

    before = torch.get_num_threads()
    everything(ask)
    torch.set_num_threads(num)
    try:
        assert everything(ask) == [num] == [torch.get_num_threads()]
    finally:
        torch.set_num_threads(before)


def test_nothing_of_a_job_outlives_it():
    class Large:
        pass

    large = Large()
    seen = weakref.ref(large)
    everything(lambda outlet, large=large: outlet.put(str(large)))
    del large
    for _ in range(1000):  # the thread itself may be a moment behind
        gc.collect()
        if seen() is None:
            return
        time.sleep(0.01)
    raise AssertionError("still there")
