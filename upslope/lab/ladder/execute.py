"""Running the arms, each in a process of its own, one at a time; what is finished is never run again."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from upslope.errors import Stopped, UserError
from upslope.inspect.words import duration, percent
from upslope.lab.ladder.plan import Arm
from upslope.record.claim import is_begun
from upslope.record.journal import JOURNAL, number, read_journal

State = Literal["new", "half", "done", "failed"]
Runner = Callable[[Sequence[str], Path], int]
"""(what stands after ``upslope train --plain``, where its output goes) -> exit code."""
Say = Callable[[str], None]

FAILED = "failed.txt"
"""In a run's folder: why it stopped before its budget was spent, and will again."""


def state(folder: Path, arm: Arm) -> State:
    """Where an arm stands, from its folder alone.

    Done: the budget is spent (or the run said that nothing is left to learn from) and the weights at its end were
    evaluated. Half: there is a checkpoint to go on from.
    """
    if (folder / FAILED).exists():
        return "failed"
    if (folder / JOURNAL).exists():
        journal = read_journal(folder)
        num_steps = len(journal.steps)
        spent = sum(number(row, "num_tokens") for row in journal.steps)
        evaluated = any(row["step"] == num_steps for row in journal.evals)
        if evaluated and (spent >= arm.tokens or journal.end is not None) and has_checkpoint(folder):
            return "done"
    return "half" if has_checkpoint(folder) else "new"


def has_checkpoint(folder: Path) -> bool:
    """Whether a complete one is there."""
    if not any(folder.glob("checkpoints/step-*")):
        return False
    from upslope.record import checkpoint

    return checkpoint.newest(folder / "checkpoints") is not None


def perform(arm: Arm, runs: Path, runner: Runner) -> State:
    """Bring an arm to its end, from wherever it stands; returns ``done`` or ``failed``.

    A run that stops with a message for its user after it has learnt (weights that are not finite, above all) has
    failed: that is a finding, kept and not tried again. Raises UserError if the folder was made with other settings or
    the arm cannot run at all, Stopped after Ctrl-C.
    """
    folder, note, log = runs / arm.name, runs / f"{arm.name}.json", runs / f"{arm.name}.log"
    if note.exists() and json.loads(note.read_text("utf-8")) != list(arm.words):
        raise UserError(f"{folder} was made with other settings (see {note}); choose another --out, or remove it")
    before = state(folder, arm)
    if before in ("done", "failed"):
        return before
    if before == "new" and not is_begun(folder):
        note.write_text(json.dumps(arm.words), "utf-8")
        code = runner([*arm.words, "--name", arm.name, "--out", str(runs)], log)
    else:
        code = runner(["--resume", str(folder)], log)
    if code == 130:
        raise Stopped("repeat the same command: finished arms are kept, this one goes on from its checkpoint")
    after = state(folder, arm)
    if code == 0 and after == "done":
        return after
    cause = last_words(log)
    if code == 2 and (folder / JOURNAL).exists() and read_journal(folder).steps:
        (folder / FAILED).write_text(cause + "\n", "utf-8")
        return "failed"
    raise UserError(f"the arm {arm.name} ended with code {code}: {cause or 'no message'} (all of it: {log})")


def last_words(log: Path) -> str:
    """The last line a run said, without the command's name."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("upslope: ") if lines else ""


def perform_all(arms: Sequence[Arm], runs: Path, runner: Runner, say: Say, clock: Callable[[], float]) -> None:
    """One arm after the other, with a line for each and the time left, estimated from those run so far."""
    spent = weight = 0.0
    left = sum(arm.weight for arm in arms if state(runs / arm.name, arm) not in ("done", "failed"))
    for index, arm in enumerate(arms, start=1):
        place = f"[{index}/{len(arms)}] {arm.name}"
        kept = state(runs / arm.name, arm) in ("done", "failed")
        if not kept:
            say(f"{place} ...")
        began = clock()
        reached = perform(arm, runs, runner)
        if kept:
            say(f"{place}: {result(runs / arm.name, reached)} (kept from before)")
            continue
        took = clock() - began
        spent, weight, left = spent + took, weight + arm.weight, left - arm.weight
        rest = f"; about {duration(spent / weight * left)} left" if weight and left > 0.5 else ""
        say(f"{place}: {result(runs / arm.name, reached)} in {duration(took)}{rest}")


def result(folder: Path, reached: State) -> str:
    """Held-out accuracy before and after, or why there is none."""
    if reached == "failed":
        return f"stopped early: {(folder / FAILED).read_text('utf-8').strip()}"
    values = [percent(number(row, "greedy", "value")) for row in read_journal(folder).evals]
    return " -> ".join((values[0], *values[1:][-1:])) if values else "made"


def run_process(words: Sequence[str], log: Path) -> int:
    """``upslope train --plain`` with these words, in a process of its own; its output goes to ``log``.

    Ctrl-C reaches the run once for every time it is pressed, and then we wait: a run finishes its step and writes a
    checkpoint. A run that does not end for us is left alone and keeps the ladder's lock.
    """
    command = [sys.executable, "-P", "-m", "upslope.cli", "train", "--plain", *words]
    with log.open("w", encoding="utf-8") as output:
        run = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            close_fds=False,
        )  # fmt: skip
        before = signal.signal(signal.SIGTERM, lambda number, frame: run.send_signal(signal.SIGINT))
        try:
            while True:
                try:
                    code = run.wait()
                    return 130 if code in (-signal.SIGINT, -signal.SIGTERM) else code
                except KeyboardInterrupt:
                    print("stopping after this step; Ctrl-C again to stop at once", file=sys.stderr, flush=True)
                    run.send_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def alone(out: Path, say: Say) -> Iterator[None]:
    """One ladder in a folder at a time. The lock is inherited by the run under way, so that a run that outlives a
    killed ladder is waited for, and never started twice."""
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        os.set_inheritable(handle, True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another ladder in {out}, or for the run that one left behind")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


now = time.monotonic
