"""Signals: the first is remembered, the second stops at once; and what a run saves when it ends early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from upslope.training.ending import ASKING, AtOnce, Signals


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Whatever started these tests may ignore some of them."""
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in ASKING]
    yield
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ASKING)
def test_the_first_is_remembered_and_the_second_stops_at_once(number: int) -> None:
    said: list[str] = []
    before = [signal.getsignal(n) for n in ASKING]
    with Signals(said.append) as signals:
        assert signals.asked is None and not signals.hurried
        os.kill(os.getpid(), number)
        assert signals.asked == number and signals.hurried == (number != signal.SIGINT)
        assert len(said) == 1 and "writing a checkpoint" in said[0]
        with pytest.raises(AtOnce) as stop:
            os.kill(os.getpid(), number)
            signal.pause()  # in case it is delivered a moment later
        assert stop.value.signal == number
    assert [signal.getsignal(n) for n in ASKING] == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals(lambda text: None) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.asked is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_changed() -> None:
    handlers: list[object] = []

    def run() -> None:
        with Signals(lambda text: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
