"""A count of many in a log: a line now and then, with the time left."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from in_process import upslope_says
from rich.console import Console

from upslope.inspect import counting
from upslope.inspect.counting import BETWEEN_LINES, WINDOW, counted


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(moves: list[tuple[float, int]], done: int = 0, total: int = 100) -> list[str]:
    """What is printed where at each of these seconds so many are done."""
    out, clock = io.StringIO(), Clock()
    with counted(Console(file=out, width=20), "attempts", total, done, clock=clock) as told:
        for clock.now, now in moves:
            told(now, f"{now * 7} tokens")
    return out.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then_with_the_time_left() -> None:
    moves = [(1, 1), (BETWEEN_LINES, 10), (BETWEEN_LINES + 1, 11), (2 * BETWEEN_LINES, 40)]
    assert lines(moves) == [
        "attempts 10 of 100, 70 tokens, left 4:30",  # 90 at 10 in 30 s
        "attempts 40 of 100, 280 tokens, left 1:30",  # 60 at 40 in 60 s
    ]


def test_before_the_first_is_done_the_time_left_is_not_known() -> None:
    assert lines([(31, 0)]) == ["attempts 0 of 100, 0 tokens, left ?"]


def test_what_was_done_before_counts_as_done_and_not_as_speed() -> None:
    assert lines([(30, 60)], done=50) == ["attempts 60 of 100, 420 tokens, left 2:00"]  # 40 at 10 in 30 s


def test_what_was_found_on_the_disk_is_soon_out_of_the_speed() -> None:
    """A resumed evaluation hears of its old attempts after it has begun: 1,000 of them at once."""
    moves = [(BETWEEN_LINES * (i + 1), 1000 + 10 * i) for i in range(WINDOW + 1)]
    assert lines(moves, total=2000)[-1].endswith(f"left {(2000 - 1000 - 10 * WINDOW) * 3 // 60}:00")  # 10 in 30 s


def test_a_short_count_says_nothing() -> None:
    assert lines([(1, 50), (2, 100)]) == []


def test_a_terminal_gets_a_bar_that_goes() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with counted(console, "attempts", 8, 2) as told:
        told(4, "28 tokens")
    assert "attempts 28 tokens" in out.getvalue() and "4/8" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is empty again


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(counting, "BETWEEN_LINES", 0.0)
    for name, split in (("rows", {}), ("split", {"split": "train"})):
        kept = [{"prompt": f"Tom has {i} apples.", "completion": "3"} | split for i in range(40)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    Path("text.txt").write_text("Tom has 3 apples.\n")
    Path("f.py").write_text("def right(completions, **_):\n    return [1.0 for _ in completions]\n")


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("words", "last"),
    [
        (
            "eval pocket:blank --data rows.jsonl --reward f.py:right --max-tokens 2 --samples 1",
            "attempts 80 of 80, 160",
        ),
        (
            "measure pocket:blank --data split.jsonl --reward f.py:right --samples 2 --max-tokens 2 --to m.jsonl",
            "problems measured 40 of 40",
        ),
        ("eval pocket:blank --text text.txt", "documents predicted 1 of 1"),
    ],
)
def test_the_commands_of_long_work_count(
    words: str, last: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = upslope_says(monkeypatch, capsys, *words.split())
    assert code == 0, err
    assert last in err and "left 0:00" in err
