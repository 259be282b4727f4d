"""A run's folder: nobody else's files, and one process at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from upslope.errors import UserError
from upslope.record.claim import LOCK, OWNER, Taken, claimed, folder_in


def test_a_folder_is_made_and_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    with claimed(folder):
        assert json.loads((folder / OWNER).read_text()).keys() == {"process", "machine", "since"}
    assert [p.name for p in folder.iterdir()] == [LOCK]
    with claimed(folder):  # nothing was written: it is as good as new
        pass


@pytest.mark.parametrize("inside", ["notes.txt", "checkpoints/step-5000/x", "reference/x", ".hidden"])
@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_files_stay(tmp_path: Path, inside: str, resume: bool) -> None:
    file = tmp_path / "mine" / inside
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    if resume:
        with claimed(tmp_path / "mine", resume=True):
            pass
    else:
        with pytest.raises(Taken, match=r"mine is not empty and holds no run \('"), claimed(tmp_path / "mine"):
            pass
        assert not (tmp_path / "mine" / LOCK).exists()
    assert file.read_text() == "mine"


OURS = [".run.toml.12.part", ".journal.jsonl.12.part", "rollouts/.step-000001.parquet.12.part"]
THEIRS = [".run.toml.part", ".run.toml.12.part.bak", ".notes.12.part", "run.toml.12.part", ".run.toml.x.part"]


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_kill_left_half_written_goes_with_the_next_claim(tmp_path: Path, resume: bool) -> None:
    """Killed before a run.toml was there, its name is as good as new."""
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "checkpoints").mkdir()
    for name in OURS:
        (tmp_path / name).write_text("half")
    with claimed(tmp_path, resume=resume):
        assert not any((tmp_path / name).exists() for name in OURS)


@pytest.mark.parametrize("name", THEIRS)
def test_what_only_looks_like_it_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with claimed(tmp_path, resume=True):
        assert (tmp_path / name).read_text() == "mine"
    with pytest.raises(Taken, match="is not empty and holds no run"), claimed(tmp_path):
        pass


def test_a_link_that_is_called_like_it_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / OURS[0]).symlink_to("mine")
    with claimed(tmp_path, resume=True):
        assert (tmp_path / OURS[0]).is_symlink() and (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("inside", ["journal.jsonl", "run.toml"])
def test_a_run_is_not_begun_in_another_ones_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).write_text("")
    with pytest.raises(Taken, match=f"holds a run already; .* --resume {tmp_path}"), claimed(tmp_path):
        pass
    with claimed(tmp_path, resume=True):
        pass


@pytest.mark.parametrize("resume", [False, True])
def test_the_second_is_told_who_the_first_is(tmp_path: Path, resume: bool) -> None:
    code = "import sys; from upslope.record.claim import claimed; from pathlib import Path\n"
    code += f"with claimed(Path({str(tmp_path)!r}), resume={resume}): print('here', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "here\n"
        said = rf"belongs to process {first.pid} on .+ \(since .+\), which is at work there"
        with pytest.raises(Taken, match=said), claimed(tmp_path, resume=resume):
            pass
        first.kill()
        first.wait()
        assert (tmp_path / OWNER).exists(), "it was killed"
        with claimed(tmp_path, resume=resume):  # and is seen through
            pass


def test_threads_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    had: list[str] = []
    together = threading.Barrier(8)

    def want(name: str) -> None:
        together.wait()
        try:
            with claimed(tmp_path / "one"):
                had.append(name)
                (tmp_path / "one" / "run.toml").write_text(name)
        except Taken:
            pass

    threads = [threading.Thread(target=want, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert had == [(tmp_path / "one" / "run.toml").read_text()]


def test_an_owner_that_cannot_be_read_is_still_an_owner(tmp_path: Path) -> None:
    for content in ("", "[]", '{"process": "\\u001b[2J"}', '{"process": 1}'):
        with claimed(tmp_path, resume=True):
            (tmp_path / OWNER).write_text(content)
            with pytest.raises(Taken, match="belongs to another process, which"), claimed(tmp_path, resume=True):
                pass


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be a folder: a file is in the way"), claimed(folder):
            pass


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../x", "a/../../x", "/tmp/x", "a/..", "./.."])
def test_a_name_does_not_lead_out(name: str) -> None:
    with pytest.raises(UserError, match="leads out of runs; give a name, such as my-run"):
        folder_in(Path("runs"), name)


@pytest.mark.parametrize("name", ["a\x00b", "a\nb", "\x1b]52;c;x\x07", "a\ud800", "n" * 201, "é" * 101])
def test_a_name_that_no_folder_can_have(name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a folder"):
        folder_in(Path("runs"), name)


@pytest.mark.parametrize("name", ["a", "a b", "grpo-0", "é", "a/b", "...", ".hidden"])
def test_names(name: str) -> None:
    assert folder_in(Path("runs"), name) == Path("runs") / name
