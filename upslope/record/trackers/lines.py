"""What trackers are sent of a line of the journal and of its attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from upslope.record.columns import numbers_of
from upslope.record.journal import sample_of
from upslope.record.trackers.base import ShownAttempt, TrackedLine

MOST_SHOWN = 6
"""Attempts of one line."""
LONGEST_SHOWN = 2000
"""Characters of a prompt, or of an attempt."""
COLUMNS_SHOWN = ["prompt_text", "response_text", "reward"]


def line_of(row: Mapping[str, Any], shown: Sequence[ShownAttempt] = ()) -> TrackedLine:
    """A line with its attempts, and with the text that an evaluation wrote."""
    sample = sample_of(row)
    texts = () if sample is None else (ShownAttempt(cut_text(sample[0]), cut_text(sample[1]), None),)
    return TrackedLine(row["kind"], row["step"], numbers_of(row), (*shown, *texts))


def shown_of(table: pa.Table) -> tuple[ShownAttempt, ...]:
    """``MOST_SHOWN`` of a table of attempts: in order of reward, the first and the last and evenly between."""
    rewards = table.column("reward").to_pylist()
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    num = min(MOST_SHOWN, len(order))
    picked = [order[round(i * (len(order) - 1) / max(num - 1, 1))] for i in range(num)]
    rows = table.select(COLUMNS_SHOWN).take(pa.array(picked, pa.int64())).to_pylist()
    return tuple(
        ShownAttempt(cut_text(row["prompt_text"]), cut_text(row["response_text"]), row["reward"]) for row in rows
    )


def shown_in(folder: Path | None, kind: str, step: int) -> tuple[ShownAttempt, ...]:
    """The same of the attempts that a run's folder keeps; none where it keeps none."""
    file = None if folder is None else folder / "rollouts" / f"{kind}-{step:06d}.parquet"
    return shown_of(pq.read_table(file, columns=COLUMNS_SHOWN)) if file is not None and file.exists() else ()


def cut_text(text: str | None) -> str:
    """At most ``LONGEST_SHOWN`` characters and a note of how many are missing, from the middle: a problem begins and an
    answer ends a text.

    >>> len(cut_text("x" * 5000)), cut_text("short")
    (2021, 'short')
    """
    text = text or ""
    if len(text) <= LONGEST_SHOWN:
        return text
    half = LONGEST_SHOWN // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
