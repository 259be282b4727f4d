"""Curves of a journal: few points that stand for many."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from upslope.inspect.look.curves import at_axis, axis_of, curve
from upslope.inspect.reading.places import RunPlace
from upslope.inspect.reading.tail import Tail

VALUES = st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=60)


def tail_of(folder: Path) -> Tail:
    return Tail(RunPlace("run", folder).journal_file)


@settings(max_examples=100)
@given(VALUES, st.integers(1, 70))
def test_means_and_extremes_are_those_of_the_stretches(values: list[float], most: int) -> None:
    found = curve(range(len(values)), values, most)
    assert len(found["x"]) == min(most, len(values))
    assert found["x"][-1] == len(values) - 1
    start = 0
    for x, y, low, high in zip(found["x"], found["y"], found["low"], found["high"], strict=True):
        assert x is not None
        part = [value for value in values[start : int(x) + 1] if math.isfinite(value)]
        start = int(x) + 1
        if not part:
            assert (y, low, high) == (None, None, None)
            continue
        assert y == pytest.approx(np.mean(part), rel=1e-5, abs=1e-5 * max(map(abs, part)))
        assert low == pytest.approx(min(part), rel=1e-5)
        assert high == pytest.approx(max(part), rel=1e-5)


def test_no_value_is_no_point() -> None:
    assert curve([], [], 10) == {"x": [], "y": [], "low": [], "high": []}


def journal(folder: Path) -> Tail:
    rows = [
        {"kind": "step", "step": 0, "num_tokens": 10, "spent": 2.0},
        {"kind": "step", "step": 1, "num_tokens": 20, "spent": 5.0},
        {"kind": "step", "step": 2, "num_tokens": None, "spent": 1.0},  # another clock
        {"kind": "step", "step": 3, "num_tokens": 30, "spent": 4.0},
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail = tail_of(folder)
    tail.refresh()
    return tail


def test_axes_add_up(tmp_path: Path) -> None:
    tail = journal(tmp_path)
    assert axis_of(tail, "step") == [0, 1, 2, 3]
    assert axis_of(tail, "tokens") == [10, 30, 30, 60]
    assert axis_of(tail, "seconds") == [2, 5, 5, 8]
    with pytest.raises(ValueError, match="none of step, tokens, seconds"):
        axis_of(tail, "years")


def test_an_evaluation_stands_at_the_end_of_the_step_before(tmp_path: Path) -> None:
    tail = journal(tmp_path)
    assert [at_axis(tail, "tokens", step) for step in (0, 1, 2, 4)] == [0, 10, 30, 60]
    assert at_axis(tail, "step", 2) == 2
