from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from upslope.errors import UserError
from upslope.record.folder import FolderRecorder
from upslope.record.journal import number, only_imitates, read_journal, rewind

STEPS = [{"kind": "step", "step": s, "reward": s / 10, "seconds": {"sample": 0.5}} for s in range(3)]
EVAL = {"kind": "eval", "step": 0, "greedy": {"value": 0.4, "low": 0.3, "high": 0.5}}


def write(folder: Path, text: str) -> Path:
    (folder / "journal.jsonl").write_text(text, encoding="utf-8")
    return folder


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_steps_and_evaluations_are_told_apart(tmp_path: Path) -> None:
    journal = read_journal(write(tmp_path, lines(EVAL, *STEPS)))
    assert list(journal.steps) == STEPS
    assert list(journal.evals) == [EVAL]
    assert journal.column("reward") == ([0.0, 1.0, 2.0], [0.0, 0.1, 0.2])


def test_an_empty_journal_is_a_run_that_has_just_begun(tmp_path: Path) -> None:
    journal = read_journal(write(tmp_path, ""))
    assert (journal.steps, journal.evals) == ((), ())


@pytest.mark.parametrize("num_chars", range(1, len(json.dumps(STEPS[2]))))
def test_a_half_written_last_line_is_skipped_wherever_it_was_cut(tmp_path: Path, num_chars: int) -> None:
    text = lines(*STEPS[:2]) + json.dumps(STEPS[2])[:num_chars]
    assert list(read_journal(write(tmp_path, text)).steps) == STEPS[:2]


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path: Path) -> None:
    assert list(read_journal(write(tmp_path, lines(*STEPS).rstrip("\n"))).steps) == STEPS


def test_a_character_cut_in_two_is_a_half_written_line(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(lines(STEPS[0]).encode() + '{"kind": "é'.encode()[:-1])
    assert list(read_journal(tmp_path).steps) == STEPS[:1]


@pytest.mark.parametrize(
    "bad", ['{"kind": "step", "st', "[1]", '{"step": 1}', '{"kind": "step"}', '{"kind": "eval", "step": 1.5}']
)
def test_a_corrupt_line_in_the_middle_is_named(tmp_path: Path, bad: str) -> None:
    write(tmp_path, lines(STEPS[0]) + bad + "\n" + lines(STEPS[1]))
    with pytest.raises(UserError, match=r"journal\.jsonl, row 2: "):
        read_journal(tmp_path)


def test_a_corrupt_last_line_with_its_newline_was_not_cut_by_a_kill(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 2"):
        read_journal(write(tmp_path, lines(STEPS[0]) + '{"kind"\n'))


def test_a_missing_folder_and_a_missing_journal_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        read_journal(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"journal\.jsonl: cannot read"):
        read_journal(tmp_path)


def test_a_resumed_run_overwrites_the_steps_it_did_again(tmp_path: Path) -> None:
    again = {"kind": "step", "step": 1, "reward": 0.9}
    journal = read_journal(write(tmp_path, lines(*STEPS, again)))
    assert [row["step"] for row in journal.steps] == [0, 1, 2]
    assert journal.steps[1] == again


def test_rows_are_in_order_of_step(tmp_path: Path) -> None:
    assert list(read_journal(write(tmp_path, lines(*reversed(STEPS)))).steps) == STEPS


def test_unknown_kinds_are_left_out(tmp_path: Path) -> None:
    assert list(read_journal(write(tmp_path, lines({"kind": "note"}, STEPS[0]))).steps) == STEPS[:1]


def test_the_last_word_of_a_run_that_ended_early(tmp_path: Path) -> None:
    end = {"kind": "end", "step": 3, "cause": 'nothing is left; "kind": "end"'}
    assert read_journal(write(tmp_path, lines(*STEPS, end))).end == end
    assert FolderRecorder(tmp_path).rows("end") == [end]
    # Words inside a line are no line.
    assert read_journal(write(tmp_path, lines({"kind": "step", "step": 0, "note": '"kind": "end"'}))).end is None
    assert FolderRecorder(tmp_path).rows("end") == []


@pytest.mark.parametrize("bad", ["", "[1]", '{"kind": "step"}', '{"kind": "end"}', "\udcff"])
def test_reading_and_resuming_refuse_the_same_lines(tmp_path: Path, bad: str) -> None:
    text = lines(STEPS[0]) + bad + "\n" + lines(STEPS[1])
    (tmp_path / "journal.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    said = []
    for look in (lambda: read_journal(tmp_path), lambda: rewind(tmp_path / "journal.jsonl", 2)):
        with pytest.raises(UserError, match="row 2") as complaint:
            look()
        said.append(str(complaint.value))
    assert said[0] == said[1]


def test_what_is_no_number_reads_as_nan() -> None:
    row = {"a": None, "b": True, "c": "1", "d": {"e": 2}, "f": math.inf}
    assert all(math.isnan(number(row, key)) for key in ("a", "b", "c", "d", "gone"))
    assert number(row, "d", "e") == 2.0
    assert number(row, "f") == math.inf
    assert math.isnan(number(row, "a", "e"))


def test_columns_skip_rows_without_the_key_and_hold_no_infinity(tmp_path: Path) -> None:
    text = lines(STEPS[0], {"kind": "step", "step": 1, "kl": math.inf}, {"kind": "step", "step": 2, "kl": 0.5})
    steps, values = read_journal(write(tmp_path, text)).column("kl")
    assert steps == [1.0, 2.0]
    assert math.isnan(values[0])
    assert values[1] == 0.5


def test_imitation_is_a_reward_of_one_throughout() -> None:
    assert only_imitates([{"reward": 1}, {"reward": 1.0}])
    assert not only_imitates([{"reward": 1}, {"reward": 0.99}])
    assert not only_imitates([{"loss": 1}])
    assert not only_imitates([])
