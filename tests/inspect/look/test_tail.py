"""A journal read as it grows."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np

from upslope.inspect.reading.places import RunPlace
from upslope.inspect.reading.tail import Tail


def tail_of(folder: Path) -> Tail:
    return Tail(RunPlace("run", folder).journal_file)


def line(step: int, **more: object) -> str:
    return json.dumps({"kind": "step", "step": step} | more) + "\n"


def test_it_reads_on_from_where_it_was(tmp_path: Path) -> None:
    journal, tail = tmp_path / "journal.jsonl", tail_of(tmp_path)
    assert tail.refresh() is False
    assert tail.trouble == "there is no journal yet"
    journal.write_text(line(0, reward=0.5, seconds={"update": 2.0}) + '{"kind": "step", "st')
    assert tail.refresh() is True
    assert (list(tail.steps), tail.trouble) == ([0], "")
    with journal.open("a") as file:
        file.write('ep": 1, "reward": 0.75, "late": 3}\n')
    assert tail.refresh() is True
    assert tail.refresh() is False
    assert list(tail.column("reward")) == [0.5, 0.75]
    assert tail.column("seconds.update")[0] == 2.0
    assert math.isnan(tail.column("late")[0]) and tail.column("late")[1] == 3
    assert tail.row(0) == {"reward": 0.5, "seconds.update": 2.0}


def test_a_journal_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    journal, tail = tmp_path / "journal.jsonl", tail_of(tmp_path)
    journal.write_text("".join(line(step, reward=float(step)) for step in range(5)))
    tail.refresh()
    aside = tmp_path / "aside"
    aside.write_text("".join(line(step, reward=10.0 + step) for step in range(3)))
    aside.replace(journal)
    assert tail.refresh() is True
    assert list(tail.column("reward")) == [10.0, 11.0, 12.0]


def test_a_step_done_again_counts_once_and_the_later_line_holds(tmp_path: Path) -> None:
    tail = tail_of(tmp_path)
    (tmp_path / "journal.jsonl").write_text(line(0, reward=0.1, once=1) + line(1, reward=0.2) + line(0, reward=0.9))
    tail.refresh()
    assert list(tail.steps) == [0, 1]
    assert list(tail.column("reward")) == [0.9, 0.2]
    assert math.isnan(tail.column("once")[0])


def test_a_damaged_line_is_passed_over_and_named(tmp_path: Path) -> None:
    tail = tail_of(tmp_path)
    deep = "[" * 100_000
    (tmp_path / "journal.jsonl").write_bytes(
        line(0, reward=1.0).encode() + b"\xff\n" + b"[]\n" + deep.encode() + b"\n" + line(1, reward=2.0).encode()
    )
    tail.refresh()
    assert list(tail.column("reward")) == [1.0, 2.0]
    assert tail.trouble == "row 2 of the journal cannot be read"


def test_what_is_no_finite_number_is_no_value(tmp_path: Path) -> None:
    tail = tail_of(tmp_path)
    (tmp_path / "journal.jsonl").write_text(
        '{"kind":"step","step":0,"a":NaN,"b":1e999,"c":"7","d":true,"e":null,"f":' + "9" * 400 + ',"g":1}\n'
    )
    tail.refresh()
    assert set(tail.columns) == {"g"}


def test_other_rows_are_kept_apart(tmp_path: Path) -> None:
    tail = tail_of(tmp_path)
    rows = [{"kind": "eval", "step": 0, "greedy": {"value": 0.5}}, {"kind": "end", "step": 3, "cause": "all solved"}]
    rows.append({"kind": "note of a later version", "words": "of no step"})
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail.refresh()
    assert tail.evals[0]["greedy"] == {"value": 0.5}
    assert tail.notes[0]["cause"] == "all solved"
    assert tail.notes[1]["words"] == "of no step" and tail.trouble == ""
    assert not tail.steps


def test_many_may_read_while_it_grows(tmp_path: Path) -> None:
    """Whoever looks at a column, or holds one, neither stops the journal from being read on nor tears a line."""
    journal, tail = tmp_path / "journal.jsonl", tail_of(tmp_path)
    journal.write_text(line(0, a=0.0))
    tail.refresh()
    held = np.asarray(tail.column("a"))
    wrong: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(300):
                tail.refresh()
                with tail.lock:
                    lengths = {len(tail.column(key)) for key in tail.named()}
                    assert lengths == {len(tail.steps)}
                tail.row(len(tail.steps) - 1)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    with journal.open("a") as file:
        for step in range(1, 400):
            file.write(line(step, a=float(step), **{f"late{step % 30}": 1.0}))
            file.flush()
    for thread in threads:
        thread.join()
    tail.refresh()
    assert wrong == []
    assert list(tail.column("a")) == [float(step) for step in range(400)]
    assert list(held) == [0.0]


def test_what_is_no_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    tail = tail_of(tmp_path)
    assert tail.refresh() is False
    assert tail.trouble == "there is no journal yet"
