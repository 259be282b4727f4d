"""Runs and trackers for tests of trackers: a folder as a run leaves it, and trackers that remember, fail, hang or
dawdle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from upslope.record.folder import FolderRecorder
from upslope.record.recorder import Recorder
from upslope.record.trackers.base import Opened, TrackedLine, TrackedRun

DOCUMENT: Mapping[str, Any] = {"name": "toy", "steps": 6, "recipe": {"name": "grpo"}}


def step_row(step: int, reward: float | None = None) -> dict[str, Any]:
    return {"kind": "step", "step": step, "reward": step / 8 if reward is None else reward, "seconds": {"sample": 0.5}}


def eval_row(step: int) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "greedy": {"value": step / 16, "low": 0.0, "high": 1.0, "num_problems": 4}}


def attempts(step: int, num: int = 9) -> pa.Table:
    columns = {
        "prompt_text": [f"{step} + {i} = ?" for i in range(num)],
        "response_text": [f"**{step + i}**" for i in range(num)],
        "reward": [i / 8 for i in range(num)],
    }
    return pa.table(columns)


def record(recorder: Recorder, steps: Iterable[int], evals: Iterable[int] = (0, 2, 4)) -> None:
    """As a run calls it: an evaluation before the step of its number."""
    for step in steps:
        if step in evals:
            recorder.add(eval_row(step))
        recorder.add_attempts("step", step, attempts(step))
        recorder.add(step_row(step))


def recorded(folder: Path, steps: int = 4) -> Path:
    """The folder of a run of so many steps."""
    recorder = FolderRecorder(folder)
    recorder.begin(DOCUMENT)
    record(recorder, range(steps))
    return folder


class Remembering:
    """Remembers what it was sent, over all of its sessions in ``ledger``. ``forgets``: whether it can."""

    def __init__(self, ledger: list[TrackedLine], *, forgets: bool = True) -> None:
        self.ledger, self._forgets = ledger, forgets
        self.closed = 0
        self.run: TrackedRun | None = None

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        self.run = run
        forgot = 0 if not id else since if self._forgets else None
        if forgot is not None:
            self.ledger[:] = [line for line in self.ledger if line.step < forgot]
        return Opened(id or "ours", forgot, "look here")

    def send(self, line: TrackedLine) -> None:
        self.ledger.append(line)

    def close(self) -> None:
        self.closed += 1


class Failing(Remembering):
    """Raises at every call whose name is given."""

    def __init__(self, *calls: str, error: BaseException | None = None) -> None:
        super().__init__([])
        self._calls, self._error = calls, error or RuntimeError("the server said\nno")

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        self._fail("open")
        return super().open(run, id, since)

    def send(self, line: TrackedLine) -> None:
        self._fail("send")
        super().send(line)

    def close(self) -> None:
        self._fail("close")
        super().close()

    def _fail(self, call: str) -> None:
        if call in self._calls:
            raise self._error


class Hanging(Remembering):
    """Never returns from this call, until it is let go."""

    def __init__(self, call: str) -> None:
        super().__init__([])
        self._call, self.let_go = call, threading.Event()

    def open(self, run: TrackedRun, id: str, since: int | None) -> Opened:
        self._hang("open")
        return super().open(run, id, since)

    def send(self, line: TrackedLine) -> None:
        self._hang("send")
        super().send(line)

    def close(self) -> None:
        self._hang("close")
        super().close()

    def _hang(self, call: str) -> None:
        if call == self._call:
            self.let_go.wait()


class Dawdling(Remembering):
    """Takes a while over every line."""

    def __init__(self, seconds: float) -> None:
        super().__init__([])
        self._seconds = seconds

    def send(self, line: TrackedLine) -> None:
        time.sleep(self._seconds)
        super().send(line)
