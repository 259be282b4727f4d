"""A file that is given to be evaluated is evaluated whole, and ids that restart are no sign of the same problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks.registry import open_task
from upslope.tasks.user import UserTask


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(data: str, **how: Any) -> UserTask:
    task = open_task("user", data=data, **how)
    assert isinstance(task, UserTask)
    return task


def test_all_of_a_file_is_held_out_where_nothing_is_learnt(tmp_path: Path) -> None:
    file = write(tmp_path / "f.jsonl", [{"prompt": f"p{i}"} for i in range(40)])
    assert len(opened(file, whole=True).problems("test")) == 40
    divided = opened(file)
    assert 0 < len(divided.problems("test")) < 20 and len(divided.problems("train")) > 20


def test_a_split_column_still_divides_it(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "split": "test" if i < 3 else "train"} for i in range(8)]
    assert len(opened(write(tmp_path / "f.jsonl", rows), whole=True).problems("test")) == 3


def test_ids_that_restart_are_told_apart(tmp_path: Path) -> None:
    for name, word in (("train", "a"), ("test", "b")):
        write(tmp_path / f"{name}.jsonl", [{"id": i, "prompt": f"{word}{i}"} for i in range(3)])
    task = opened(str(tmp_path))
    assert [p.id for p in task.problems("train")] == ["0", "1", "2"]
    assert [p.id for p in task.problems("test")] == ["test/0", "test/1", "test/2"]
    assert [p.columns["id"] for p in task.problems("test")] == [0, 1, 2]  # what a reward sees is the row's own


def test_ids_that_restart_in_a_split_column_are_told_apart(tmp_path: Path) -> None:
    rows = [{"id": i % 3, "prompt": f"p{i}", "split": "train" if i < 3 else "test"} for i in range(6)]
    task = opened(write(tmp_path / "f.jsonl", rows))
    assert [p.id for p in task.problems("test")] == ["test/0", "test/1", "test/2"]


def test_an_id_that_looks_like_one_told_apart_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"id": "0", "prompt": "a"}, {"id": "test/0", "prompt": "b"}])
    write(tmp_path / "test.jsonl", [{"id": "0", "prompt": "c"}])
    assert [p.id for p in opened(str(tmp_path)).problems("test")] == ["test/test/0"]


@pytest.mark.parametrize("place", ["train", "test", "f"])
def test_an_id_twice_on_one_side_is_refused(tmp_path: Path, place: str) -> None:
    for name in ("train", "test"):
        write(tmp_path / f"{name}.jsonl", [{"id": 0, "prompt": name}])
    file = write(tmp_path / f"{place}.jsonl", [{"id": 0, "prompt": "a"}, {"id": 0, "prompt": "b"}])
    with pytest.raises(UserError, match=rf"{place}.jsonl row 2: id '0' is taken by .*{place}.jsonl row 1"):
        opened(file if place == "f" else str(tmp_path)).problems("train")
