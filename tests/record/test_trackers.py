"""Trackers hear what the recorder keeps, each line once, and nothing that they do reaches the run."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked import DOCUMENT, Dawdling, Failing, Hanging, Remembering, eval_row, record, recorded, step_row
from typer.testing import CliRunner

from upslope.cli.commands import app
from upslope.errors import UserError
from upslope.record.columns import COLUMNS, GROUPS, numbers_of
from upslope.record.folder import FolderRecorder
from upslope.record.journal import read_journal, read_lines
from upslope.record.recorder import MemoryRecorder
from upslope.record.trackers import recorder as module, sender
from upslope.record.trackers.base import TrackedLine, Tracker
from upslope.record.trackers.export import export_run
from upslope.record.trackers.known import require_place, require_trackers
from upslope.record.trackers.lines import LONGEST_SHOWN, MOST_SHOWN, cut_text
from upslope.record.trackers.mark import SentMark, read_mark, write_mark
from upslope.record.trackers.recorder import TrackedRecorder

ROOT = Path(__file__).resolve().parents[2]
ALL = [("eval", 0), ("step", 0), ("step", 1), ("eval", 2), ("step", 2), ("step", 3)]


def keys(ledger: list[TrackedLine]) -> list[tuple[str, int]]:
    return [(line.kind, line.step) for line in ledger]


class Session:
    """A run's records with one tracker that listens, from ``begin`` to ``close``."""

    def __init__(self, folder: Path, tracker: Tracker, since: int | None = None) -> None:
        self.said: list[str] = []
        self.recorder = TrackedRecorder(FolderRecorder(folder), ["wandb"], lambda name: tracker, self.said.append)
        if since is not None:
            self.recorder.rewind(since)
        self.recorder.begin(DOCUMENT)

    def __enter__(self) -> TrackedRecorder:
        return self.recorder

    def __exit__(self, *_: object) -> None:
        self.recorder.close()


@pytest.fixture
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    tracker = Hanging(request.param)
    yield tracker
    tracker.let_go.set()


def causes(folder: Path) -> list[str]:
    return [row["cause"] for row in read_lines(folder) if row["kind"] == "tracker"]


# -- what is sent ---------------------------------------------------------------------------------------------------


def test_a_tracker_hears_every_line_with_its_numbers_and_attempts(tmp_path: Path) -> None:
    tracker = Remembering([])
    with Session(tmp_path, tracker) as recorder:
        record(recorder, range(4))
    assert keys(tracker.ledger) == ALL
    assert tracker.closed == 1
    assert tracker.run is not None
    assert (tracker.run.document, tracker.run.folder, tracker.run.name) == (DOCUMENT, tmp_path, tmp_path.name)
    first, line = tracker.ledger[0], tracker.ledger[-1]
    estimate = {"eval/greedy": 0, "eval/greedy/low": 0, "eval/greedy/high": 1, "eval/greedy/num_problems": 4}
    assert first.numbers == estimate
    assert line.numbers == {"outcome/reward": 3 / 8, "time/seconds/sample": 0.5}
    rewards = [attempt.reward for attempt in line.shown]
    assert rewards == [0, 2 / 8, 3 / 8, 5 / 8, 6 / 8, 1]  # of nine: round(8 i / 5)
    assert (line.shown[1].prompt, line.shown[1].text) == ("3 + 2 = ?", "**5**")
    assert len(rewards) == MOST_SHOWN < 10


def test_the_records_are_those_of_the_recorder_inside(tmp_path: Path) -> None:
    with Session(tmp_path / "tracked", Remembering([])) as recorder:
        record(recorder, range(3))
        assert [row["step"] for row in recorder.rows("step")] == [0, 1, 2]
        assert len(recorder.attempts("step", 1)) == 9
    recorded(tmp_path / "plain", 3)
    for name in ("journal.jsonl", "run.toml", "rollouts/step-000001.parquet"):
        assert (tmp_path / "tracked" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_numbers_that_are_none_are_left_out() -> None:
    row = {"kind": "step", "step": 1, "reward": None, "loss": float("nan"), "flag": True, "mine": 2, "text": "x"}
    assert numbers_of(row | {"seconds": {"a": 1.0, "b": None}}) == {"other/mine": 2.0, "time/seconds/a": 1.0}
    assert numbers_of({"kind": "eval", "step": 1, "reward": 1.0, "by": {"a/b": {"value": 0.5}}}) == {
        "eval/reward": 1.0,
        "eval/by/a/b": 0.5,
    }


def test_every_column_of_the_page_has_its_group_and_words() -> None:
    page = (ROOT / "docs" / "library.md").read_text("utf-8")
    tables = page.partition("What a row of `run.rows")[2].partition("## Measure")[0]
    told = {name for row in re.findall(r"^\| (`.*?) \|", tables, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert len(told) > 40
    assert told - {"step", "sample"} - COLUMNS.keys() == set()
    assert {column.group for column in COLUMNS.values()} == GROUPS.keys() - {"other"}


def test_a_long_text_is_cut_in_the_middle() -> None:
    text = "a" * LONGEST_SHOWN + "b" * LONGEST_SHOWN
    assert cut_text(text) == f"{'a' * 1000} … 2000 characters … {'b' * 1000}"


# -- a tracker that fails, hangs or dawdles --------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [["open"], ["send"], ["close"], ["open", "send", "close"]])
def test_a_failing_tracker_is_told_once_and_the_run_goes_on(tmp_path: Path, calls: list[str]) -> None:
    session = Session(tmp_path, Failing(*calls))
    with session as recorder:
        for step in range(4):
            record(recorder, [step])
            time.sleep(0.02)
    assert [row["step"] for row in read_journal(tmp_path).steps] == [0, 1, 2, 3]
    told = [line for line in session.said if "left alone" in line]
    assert told == [
        f"tracker wandb is left alone, and the run goes on: RuntimeError: the server said no; the rest: upslope export "
        f"{tmp_path} --to wandb"
    ]
    assert causes(tmp_path) == ["RuntimeError: the server said no"]


def test_even_what_ends_a_process_ends_the_tracker_only(tmp_path: Path) -> None:
    with Session(tmp_path, Failing("send", error=SystemExit(3))) as recorder:
        record(recorder, range(2))
    assert causes(tmp_path) == ["SystemExit: 3"]


@pytest.mark.parametrize("hanging", ["open", "send", "close"], indirect=True)
def test_a_hanging_tracker_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: Hanging) -> None:
    monkeypatch.setattr(module, "LAST_SECONDS", 0.3)
    began = time.monotonic()
    session = Session(tmp_path, hanging)
    with session as recorder:
        record(recorder, range(20))
        assert time.monotonic() - began < 2
        before = time.monotonic()
    assert 0.25 < time.monotonic() - before < 1
    assert len(read_journal(tmp_path).steps) == 20
    assert causes(tmp_path) == ["it was not done 0.3 s after the run's end"]
    assert len([line for line in session.said if "left alone" in line]) == 1


@pytest.mark.parametrize("hanging", ["send"], indirect=True)
def test_what_waits_for_a_tracker_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: Hanging) -> None:
    monkeypatch.setattr(sender, "MOST_WAITING", 5)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.3)
    with Session(tmp_path, hanging) as recorder:
        record(recorder, range(20), evals=())
        assert causes(tmp_path) == ["it is 5 lines behind"]
    assert len(read_journal(tmp_path).steps) == 20
    assert causes(tmp_path) == ["it is 5 lines behind"]


def test_what_a_slow_tracker_has_is_a_beginning_and_an_export_sends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_SECONDS", 0.3)
    monkeypatch.setattr("upslope.record.trackers.export.require_trackers", lambda names: None)
    tracker = Dawdling(0.1)
    with Session(tmp_path, tracker) as recorder:
        record(recorder, range(20))
    time.sleep(0.3)  # the line that it was at
    whole = [(row["kind"], row["step"]) for row in read_lines(tmp_path) if row["kind"] != "tracker"]
    num = len(tracker.ledger)
    assert 0 < num < len(whole)
    assert keys(tracker.ledger) == whole[:num]
    assert list(export_run(tmp_path, ["wandb"], lambda name: Remembering(tracker.ledger))) == ["wandb: look here"]
    assert keys(tracker.ledger) == whole


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_sends_nothing(tmp_path: Path) -> None:
    tracker = Remembering([])
    with Session(tmp_path, tracker) as recorder:
        record(recorder, range(2))
        child = os.fork()
        if child == 0:
            try:
                recorder.add(step_row(2))
                began = time.monotonic()
                recorder.close()
                os._exit(0 if time.monotonic() - began < 2 else 1)
            finally:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
    assert causes(tmp_path) == []
    assert keys(tracker.ledger) == ALL[:3]


# -- resumed, exported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("forgets", [True, False])
def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path, forgets: bool) -> None:
    ledger: list[TrackedLine] = []
    with Session(tmp_path, Remembering(ledger, forgets=forgets)) as recorder:
        record(recorder, range(2))
    with Session(tmp_path, Remembering(ledger, forgets=forgets), since=2) as recorder:
        record(recorder, range(2, 4))
    assert keys(ledger) == ALL
    assert read_mark(tmp_path, "wandb").id == "ours"


@pytest.mark.parametrize("forgets", [True, False])
def test_steps_made_again_appear_once(tmp_path: Path, forgets: bool) -> None:
    """Four steps, back to the checkpoint after the second, and the others again with other rewards."""
    ledger: list[TrackedLine] = []
    with Session(tmp_path, Remembering(ledger, forgets=forgets)) as recorder:
        record(recorder, range(4))
    with Session(tmp_path, Remembering(ledger, forgets=forgets), since=2) as recorder:
        for step in range(2, 6):
            recorder.add(step_row(step, reward=9.0))
    assert sorted(keys(ledger)) == sorted([*ALL, ("step", 4), ("step", 5)])
    rewards = [line.numbers["outcome/reward"] for line in ledger if line.kind == "step"]
    again = [9.0, 9.0] if forgets else [2 / 8, 3 / 8]
    assert rewards == [0, 1 / 8, *again, 9.0, 9.0]


def test_a_run_that_went_on_untracked_is_not_doubled_by_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upslope.record.trackers.export.require_trackers", lambda names: None)
    ledger: list[TrackedLine] = []
    with Session(tmp_path, Remembering(ledger)) as recorder:
        record(recorder, range(4))
    plain = FolderRecorder(tmp_path)
    plain.rewind(2)
    record(plain, range(2, 5), evals=(4,))
    for expected in ("wandb: look here", "wandb: has all of it"):
        assert list(export_run(tmp_path, ["wandb"], lambda name: Remembering(ledger))) == [expected]
        assert keys(ledger) == [*ALL, ("eval", 4), ("step", 4)]
    assert [len(line.shown) for line in ledger] == [0, 6, 6, 0, 6, 6, 0, 6]  # attempts from their files


def test_a_line_that_was_recorded_anew_within_a_run_is_sent_once(tmp_path: Path) -> None:
    """As when what ended a run came between a step's line and its checkpoint."""
    tracker = Remembering([])
    with Session(tmp_path, tracker) as recorder:
        record(recorder, range(2))
        time.sleep(0.1)
        recorder.rewind(1)
        record(recorder, [1], evals=())
    assert keys(tracker.ledger) == ALL[:3]


def test_a_line_that_failed_is_sent_by_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upslope.record.trackers.export.require_trackers", lambda names: None)
    with Session(tmp_path, Failing("send")) as recorder:
        record(recorder, range(4))
    with pytest.raises(UserError, match="wandb: RuntimeError: the server said no; the same command sends the rest"):
        list(export_run(tmp_path, ["wandb"], lambda name: Failing("send")))
    ledger: list[TrackedLine] = []
    list(export_run(tmp_path, ["wandb"], lambda name: Remembering(ledger)))
    assert keys(ledger) == ALL


def test_records_in_memory_are_tracked_too() -> None:
    tracker = Remembering([])
    recorder = TrackedRecorder(MemoryRecorder("toy"), ["wandb"], lambda name: tracker, lambda text: None)
    recorder.begin(DOCUMENT)
    record(recorder, range(4))
    recorder.close()
    assert keys(tracker.ledger) == ALL


@pytest.mark.parametrize(
    "content", ["", "[]", '{"id": "a"}', '{"id": "a", "lines": "7", "step": 1, "eval": 1, "since": null}', "\xff"]
)
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    write_mark(tmp_path, "wandb", SentMark("a", 7, 3, 2))
    assert read_mark(tmp_path, "wandb") == SentMark("a", 7, 3, 2)
    (tmp_path / "trackers" / "wandb.json").write_bytes(content.encode("latin-1"))
    assert read_mark(tmp_path, "wandb") == SentMark()


# -- what can be known before -----------------------------------------------------------------------------------------


def test_a_tracker_that_is_missing_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^tracker nowhere is not installed: pip install 'upslope\[nowhere\]'"):
        require_trackers(["nowhere"])
    (tmp_path / "nowhere").mkdir()  # a folder as trackers leave it, which Python would import
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="not installed"):
        require_trackers(["nowhere"])


def test_tensorboard_needs_a_folder() -> None:
    require_place(["wandb", "trackio"], None)
    with pytest.raises(UserError, match="give folder="):
        require_place(["tensorboard"], None)


def test_export_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    for arguments, words in (
        (["export", str(tmp_path), "--to", "tensorbord"], "no tracker; did you mean 'tensorboard'?"),
        (["export", str(tmp_path), "--to", "tensorboard"], "holds no run"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, UserError)
        assert words in str(done.exception)


def test_the_journal_is_read_by_others_as_before(tmp_path: Path) -> None:
    with Session(tmp_path, Failing("open")) as recorder:
        record(recorder, range(2))
        time.sleep(0.1)
        recorder.add(eval_row(2))
    rows = [json.loads(line)["kind"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert "tracker" in rows
    found = read_journal(tmp_path)
    assert (len(found.steps), len(found.evals), found.end) == (2, 2, None)
    assert [row["kind"] for row in FolderRecorder(tmp_path).rewind(2)].count("step") == 2
