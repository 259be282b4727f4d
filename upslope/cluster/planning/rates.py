"""What runs measured: their journals' seconds, their attempts' lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from upslope.cluster.planning.times import MeasuredTimes
from upslope.errors import UserError
from upslope.record.journal import JournalRow, number, read_journal
from upslope.record.names import ROLLOUTS

WARMING = 1
"""First steps of a run that are left out: they compile and fill caches."""


@dataclass(frozen=True)
class StepFacts:
    """One step of a run as it was."""

    sample: float
    update: float
    beside: float
    """Seconds of all other phases."""
    longest: int
    """Tokens of the longest attempt."""
    tokens: int
    """Of all responses."""
    learned: float
    """Of the responses that had a gradient, about: their number times the mean length."""
    share: float

    @property
    def whole(self) -> float:
        return self.sample + self.update + self.beside


@dataclass(frozen=True)
class TimedRun:
    """What a run folder says of time and lengths."""

    folder: Path
    steps: tuple[StepFacts, ...]
    lengths: tuple[int, ...]
    """Response tokens of every kept attempt."""
    prompt: int
    """Tokens of a prompt, the mean."""


def facts_of_run(folder: Path) -> TimedRun:
    """Read a run. Raises UserError for a folder that is none, and for a run without steps of sampling."""
    journal = read_journal(folder)
    lengths: dict[int, list[int]] = {}
    prompts: list[float] = []
    for file in sorted((folder / "rollouts").glob("step-*.parquet")):
        found = ROLLOUTS.fullmatch(file.name)
        if found is None:
            continue
        try:
            table = pq.read_table(file, columns=["prompt", "response"])
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error
        lengths[int(found[2])] = pc.list_value_length(table["response"]).to_pylist()
        prompts += pc.list_value_length(table["prompt"]).to_pylist()
    acted = [row for row in journal.steps if "truncated" in row]  # of given text nothing is cut
    rows = acted[WARMING:] if len(acted) > WARMING else acted
    if not rows:
        raise UserError(
            f"{folder}: no step of this run made attempts, so there are no rates in it; give a run that did"
        )
    steps = tuple(_facts(row, lengths.get(int(row["step"]), ())) for row in rows)
    every = tuple(n for found in lengths.values() for n in found)
    return TimedRun(folder, steps, every, round(sum(prompts) / max(len(prompts), 1)))


def _facts(row: JournalRow, lengths: Sequence[int]) -> StepFacts:
    seconds = {key: float(value) for key, value in row["seconds"].items()}
    sample, update = seconds.pop("sample", 0.0), seconds.pop("update", 0.0)
    num, length = number(row, "num_rollouts"), number(row, "length")
    share = min(1.0, number(row, "num_learned") / max(num, 1))
    return StepFacts(
        sample,
        update,
        sum(seconds.values()),
        longest=max(lengths, default=round(length)),
        tokens=int(number(row, "num_tokens")),
        learned=share * num * length,
        share=share,
    )


def measured_times(runs: Sequence[TimedRun]) -> MeasuredTimes:
    """The best fit to all steps of these runs: sample = step x longest + row x tokens, update = fixed + token x learned
    tokens, both by least squares without negative parts; the other phases' mean is in ``fixed``."""
    steps = [step for run in runs for step in run.steps]
    position, row = _fit([(s.longest, s.tokens) for s in steps], [s.sample for s in steps])
    fixed, token = _fit([(1.0, s.learned) for s in steps], [s.update for s in steps])
    beside = sum(s.beside for s in steps) / len(steps)
    share = sum(s.share for s in steps) / len(steps)
    return MeasuredTimes(position, row, fixed + beside, token, share, load=0.0)


def _fit(inputs: Sequence[tuple[float, float]], wanted: Sequence[float]) -> tuple[float, float]:
    """The two parts, neither below zero, that explain the numbers best; errors count by their share of the number, so
    that short steps weigh as much as long ones."""
    y = np.maximum(np.asarray(wanted), 1e-9)
    x = np.asarray(inputs) / y[:, None]
    ones = np.ones_like(y)
    both = np.linalg.lstsq(x, ones, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = [float(x[:, i] @ ones / max(float(x[:, i] @ x[:, i]), 1e-30)) for i in (0, 1)]
    errors = [float(((x[:, i] * alone[i] - ones) ** 2).sum()) for i in (0, 1)]
    return (alone[0], 0.0) if errors[0] < errors[1] else (0.0, alone[1])
