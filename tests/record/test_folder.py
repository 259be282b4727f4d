"""A run's folder, into which somebody else has put files too."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

from upslope.record.attempts import EVAL_SCHEMA, write
from upslope.record.folder import FolderRecorder
from upslope.record.manifest import whole_folder
from upslope.record.recorder import Snapshot


@pytest.fixture
def recorder(tmp_path: Path) -> FolderRecorder:
    made = FolderRecorder(tmp_path / "run")
    made.begin({"name": "run"})
    return made


def rows(num: int) -> pa.Table:
    columns = [pa.array([None] * num, type=field.type) for field in EVAL_SCHEMA]
    return pa.Table.from_arrays(columns, schema=EVAL_SCHEMA)


def test_files_of_others_are_left_alone(recorder: FolderRecorder) -> None:
    for step in (0, 1, 2):
        recorder.add_attempts("step", step, rows(1))
    mine = [recorder.folder / "rollouts" / "mine.parquet", recorder.folder / "reference-old" / "note.txt"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    subject = tiny.policy(dtype=torch.float32)
    recorder.keep_reference(0, subject)
    recorder.keep_reference(2, subject)
    for step in (1, 2, 3):
        recorder.save(Snapshot(step, subject, subject.weights(), {"x": torch.zeros(1)}, None, {}))
    recorder.rewind(1)
    assert sorted(p.name for p in (recorder.folder / "rollouts").iterdir()) == ["mine.parquet", "step-000000.parquet"]
    assert all(path.read_text() == "mine" for path in mine)
    assert recorder.reference(5) == recorder.folder / "reference-000002"


@pytest.mark.parametrize("newest_is_whole", [True, False])
def test_a_run_that_goes_on_deletes_what_a_kill_kept_it_from_deleting(tmp_path: Path, newest_is_whole: bool) -> None:
    """Three checkpoints and two references where two and one are kept: nothing goes while the newest is broken."""
    recorder = FolderRecorder(tmp_path / "run", keep=9)
    recorder.begin({"name": "run"})
    subject = tiny.policy(dtype=torch.float32)
    for step in (0, 2):
        recorder.keep_reference(step, subject)
    for step in (2, 4, 6):
        recorder.save(Snapshot(step, subject, subject.weights(), {"x": torch.zeros(1)}, None, {}))
    recorder.keep_reference(0, subject)  # as if it had not been dropped yet
    if not newest_is_whole:
        (recorder.folder / "checkpoints" / "step-000006" / "model.safetensors").unlink()
    FolderRecorder(tmp_path / "run", keep=2).rewind(6)
    left = sorted(path.name for path in (recorder.folder / "checkpoints").iterdir())
    assert left == [f"step-{step:06d}" for step in ((4, 6) if newest_is_whole else (2, 4, 6))]
    assert [path.name for path in recorder.folder.glob("reference*")] == ["reference-000002"]


def test_a_table_is_written_whole(tmp_path: Path) -> None:
    file = tmp_path / "eval-000000.parquet"
    write(file, rows(2))
    write(file, rows(3))
    assert pq.read_table(file).num_rows == 3
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "reference"
    with whole_folder(place) as aside:
        (aside / "a").write_text("old")
    with pytest.raises(OSError), whole_folder(place) as aside:
        (aside / "a").write_text("new")
        raise OSError("the disk is full")
    assert (place / "a").read_text() == "old"
    with whole_folder(place) as aside:
        (aside / "b").write_text("new")
    assert sorted(p.name for p in place.iterdir()) == ["b", "manifest.json"] and [
        p.name for p in tmp_path.iterdir()
    ] == ["reference"]
