from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.record.journal import append, rewind

ROWS: list[dict[str, Any]] = [
    {"kind": "eval", "step": 0},
    {"kind": "step", "step": 0, "reward": 0.5},
    {"kind": "step", "step": 1, "reward": 0.25},
    {"kind": "eval", "step": 2},
    {"kind": "step", "step": 2, "reward": 1.0},
    {"kind": "step", "step": 3, "reward": 0.0},
    {"kind": "eval", "step": 4},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    for row in ROWS:
        append(path, row)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_whole_and_in_order(path: Path) -> None:
    assert path.read_text().endswith("\n")
    assert read(path) == ROWS


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, fsync = tmp_path / "journal.jsonl", [], os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    append(path, {"kind": "step", "step": 0})
    assert synced == [path.stat().st_size]  # everything was flushed before it was synced


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "journal.jsonl"
    append(path, {"kind": "step", "step": 0, "loss": value, "deep": {"x": value, "y": 1.5}, "many": [value, 2.5]})
    assert read(path) == [{"kind": "step", "step": 0, "loss": None, "deep": {"x": None, "y": 1.5}, "many": [None, 2.5]}]


def test_small_numbers_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append(path, {"kind": "step", "step": 0, "lr": 1.23456789e-11, "reward": 1 / 3})
    assert read(path)[0]["lr"] == 1.23456789e-11
    assert read(path)[0]["reward"] == 0.333333333


@pytest.mark.parametrize(
    ("step", "left"),
    # A step's own number is one less than the updates done after it: after 2 updates steps 0 and 1 are history, and
    # so is the evaluation made after those 2.
    [(0, ROWS[:1]), (1, ROWS[:2]), (2, ROWS[:4]), (3, ROWS[:5]), (4, ROWS)],
)
def test_rewinding_cuts_what_came_after(path: Path, step: int, left: list[dict[str, Any]]) -> None:
    rewind(path, step)
    assert read(path) == left
    append(path, {"kind": "step", "step": step})
    assert read(path) == [*left, {"kind": "step", "step": step}]


@pytest.mark.parametrize("num_chars", range(1, len(json.dumps(ROWS[5]))))
def test_a_half_written_last_line_is_dropped(path: Path, num_chars: int) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS[:5]) + json.dumps(ROWS[5])[:num_chars])
    rewind(path, 4)
    append(path, ROWS[5])
    assert read(path) == ROWS[:6]


def test_a_last_line_that_lacks_only_its_newline_is_kept(path: Path) -> None:
    path.write_text("\n".join(json.dumps(r) for r in ROWS))
    rewind(path, 4)
    append(path, {"kind": "step", "step": 4})
    assert read(path) == [*ROWS, {"kind": "step", "step": 4}]


@pytest.mark.parametrize("bad", ['{"kind": "ste', "[1]", "7", '{"kind": "step"}', '{"step": 1}', "\udcff", ""])
def test_a_line_spoilt_in_the_middle_is_named_and_nothing_is_lost(path: Path, bad: str) -> None:
    lines = path.read_text().splitlines()
    content = "\n".join([*lines[:2], bad, *lines[2:], ""]).encode(errors="surrogateescape")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"journal\.jsonl, row 3: "):
        rewind(path, 4)
    assert path.read_bytes() == content


def test_a_kill_while_rewinding_leaves_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        rewind(path, 1)
    assert read(path) == ROWS


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    rewind(tmp_path / "journal.jsonl", 3)
    assert (tmp_path / "journal.jsonl").read_text() == ""
