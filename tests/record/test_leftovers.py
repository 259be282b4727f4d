"""What a process that ended too early leaves is deleted by the next, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from upslope.files import write_whole
from upslope.record.claim import LOCK, Taken, claimed
from upslope.record.manifest import MANIFEST, whole_folder
from upslope.record.trust import SEAL

LEFT = (
    *(".run.toml.12.part", ".journal.jsonl.12.part", f".{SEAL}.12.part", "rollouts/.step-000003.parquet.12.part"),
    *("rollouts/.eval-000003.parquet.7.part", f".reference.part/{MANIFEST}", f".reference-000004.part/{MANIFEST}"),
    *(f"reference-000002.replaced/{MANIFEST}", f"checkpoints/.step-000004.part/{MANIFEST}"),
)
OF_OTHERS = (
    *(".run.toml.part", ".run.toml.x.part", ".notes.txt.12.part", "rollouts/.mine.parquet.12.part"),
    *(".reference.part/x", "my-reference.part/x", "reference-000002.replaced/x"),
    *("checkpoints/.step-000004.part/x", "checkpoints/.mine.part/x"),
)


def put(folder: Path, inside: str) -> Path:
    file = folder / inside
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    return file


@pytest.mark.parametrize("inside", LEFT)
def test_what_was_half_written_is_deleted(tmp_path: Path, inside: str) -> None:
    put(tmp_path, "run.toml")
    put(tmp_path, f"reference/{MANIFEST}")
    file = put(tmp_path, inside)
    with claimed(tmp_path, resume=True):
        assert not file.exists() and not (file.name == MANIFEST and file.parent.exists())
        assert (tmp_path / "run.toml").exists() and (tmp_path / "reference").exists()


@pytest.mark.parametrize("inside", OF_OTHERS)
def test_what_only_looks_like_it_stays(tmp_path: Path, inside: str) -> None:
    put(tmp_path, "run.toml")
    file = put(tmp_path, inside)
    with claimed(tmp_path, resume=True):
        pass
    assert file.read_text() == "{}"


def test_a_checkpoint_that_was_set_aside_stays_until_the_next_is_written(tmp_path: Path) -> None:
    put(tmp_path, "run.toml")
    with whole_folder(tmp_path / "checkpoints" / "step-000004") as aside:
        (aside / "x").write_text("x")
    moved = (tmp_path / "checkpoints" / "step-000004").rename(tmp_path / "checkpoints" / ".step-000004.part")
    with claimed(tmp_path, resume=True):
        pass
    assert (moved / "x").exists()


def test_a_run_that_ended_before_it_began_is_begun_again(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "reference") as aside:
        (aside / "x").write_text("x")
    for name in ("rollouts", "checkpoints"):
        (tmp_path / name).mkdir()
    for inside in (SEAL, ".run.toml.12.part", f".reference.part/{MANIFEST}"):
        put(tmp_path, inside)
    with claimed(tmp_path):
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {LOCK, ".owner", SEAL, "rollouts", "checkpoints"}


def test_a_link_is_followed_by_nobody(tmp_path: Path) -> None:
    place, run = tmp_path / "place", tmp_path / "run"
    with whole_folder(place) as aside:
        (aside / "x").write_text("x")
    run.mkdir()
    (run / ".reference.part").symlink_to(place)
    with pytest.raises(Taken, match="is not empty and holds no run"), claimed(run):
        pass
    with claimed(run, resume=True):
        pass
    assert (place / "x").exists()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "a", b"old")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "a", b"new")
        with pytest.raises(OSError, match="No space"), whole_folder(tmp_path / "b") as aside:
            (aside / "x").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"old"
