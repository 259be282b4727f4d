"""A tokenisation that is killed, interrupted or out of room goes on to the same bytes; two at once make one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stories import END, byte_tokenizer, stories, write_rows

from upslope.errors import Unavailable, UserError
from upslope.text import hub, making, pool, shards
from upslope.text.corpus import Corpus, open_corpus

NUM = 400
SUPPORT = str(Path(__file__).parent.parent / "support")
PROGRAM = """
import os, sys
from pathlib import Path
from upslope.text import making, shards
from upslope.text.corpus import open_corpus
from stories import END, byte_tokenizer

shards.SHARD, making.BATCH_BYTES = 10_000, 2_000
source, folder, workers, act, when = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
told = 0

def progress(done, total):
    global told
    told += 1
    if told == 1:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        print(children.read_text() if children.exists() else "", flush=True)
    if act == "kill" and told == when:
        os.kill(os.getpid(), 9)
    if act == "wait":
        import time
        time.sleep(0.02 if told < when else 60)

open_corpus([source], tokenizer=byte_tokenizer(), end_id=END, held_out=0.1, folder=folder, workers=workers,
            progress=progress)
print("told", told)
"""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 10_000)
    monkeypatch.setattr(making, "BATCH_BYTES", 2_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("source") / "a.jsonl", stories(NUM))


def opened(folder: Path, source: Path | str, **options: Any) -> Corpus:
    return open_corpus([str(source)], tokenizer=byte_tokenizer(), end_id=END, held_out=0.1, folder=folder, **options)


def files(corpus: Corpus) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(corpus.folder.iterdir())}


@pytest.fixture
def expected(tmp_path: Path, source: Path) -> dict[str, bytes]:
    """What an uninterrupted tokenisation gives."""
    return files(opened(tmp_path / "expected", source))


def started(source: Path, folder: Path, workers: int, act: str, when: int) -> subprocess.Popen[str]:
    arguments = [str(source), str(folder), str(workers), act, str(when)]
    path = os.pathsep.join([SUPPORT, *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, which Ctrl-C reaches as a whole
        env={**os.environ, "PYTHONPATH": path},
    )


def gone(process: int) -> bool:
    """Whether it ends within some seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("workers", "when"), [(0, 1), (0, 17), (2, 12), (3, 30)])
def test_a_killed_tokenisation_goes_on_behind_its_finished_shards(
    workers: int, when: int, tmp_path: Path, source: Path, expected: dict[str, bytes]
) -> None:
    process = started(source, tmp_path / "made", workers, "kill", when)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    if sys.platform == "linux":
        children = [int(number) for number in output.split()]
        assert len(children) == workers
        assert all(map(gone, children))
    finished = list((tmp_path / "made").glob("*/shard-*.json"))
    assert (len(finished) > 0) == (when > 5)
    told: list[int] = []
    corpus = opened(tmp_path / "made", source, workers=2 if workers == 0 else 0, progress=lambda d, t: told.append(d))
    assert files(corpus) == expected
    uninterrupted: list[int] = []
    opened(tmp_path / "again", source, progress=lambda done, total: uninterrupted.append(done))
    assert len(told) <= len(uninterrupted) - 4 * len(finished)  # a shard is five batches or so


def test_ctrl_c_leaves_finished_shards_and_no_process(tmp_path: Path, source: Path, expected: dict[str, bytes]) -> None:
    process = started(source, tmp_path / "made", 2, "wait", 10)
    assert process.stdout is not None
    children = [int(number) for number in process.stdout.readline().split()]
    deadline = time.monotonic() + 30
    while not list((tmp_path / "made").glob("*/shard-*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT, errors
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert errors.count("Traceback") == 1  # none of the processes that tokenise
    assert all(map(gone, children))
    assert list((tmp_path / "made").glob("*/.*.part")) == []
    assert files(opened(tmp_path / "made", source)) == expected


def test_a_damaged_finished_shard_is_made_again(tmp_path: Path, source: Path, expected: dict[str, bytes]) -> None:
    started(source, tmp_path / "made", 0, "kill", 30).communicate(timeout=60)
    shard = next((tmp_path / "made").glob("*/shard-00001.tokens"))
    data = shard.read_bytes()
    shard.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert files(opened(tmp_path / "made", source)) == expected


def test_two_at_once_make_a_corpus_once(tmp_path: Path, source: Path, expected: dict[str, bytes]) -> None:
    both = [started(source, tmp_path / "made", 0, "wait", 10_000) for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    told = sorted(int(output.split()[-1]) for output, _ in outputs)
    assert told[0] == 0
    assert told[1] > 10
    assert files(opened(tmp_path / "made", source)) == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("when", [1, 2, 5, -1])
def test_a_full_disk_is_one_line_and_costs_one_shard(
    when: int, workers: int, tmp_path: Path, source: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]
    sync = os.fsync

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == when or (when == -1 and list((tmp_path / "made").glob("*/documents.hash"))):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable) as caught:
            opened(tmp_path / "made", source, workers=workers)
    assert str(caught.value) == (
        f"tokenised text cannot be kept in {tmp_path / 'made'}: No space left on device (what is finished is kept); "
        "make room, or set UPSLOPE_CACHE to another folder"
    )
    assert list((tmp_path / "made").glob("**/.*.part")) == []
    assert files(opened(tmp_path / "made", source)) == expected


def test_a_process_that_ends_is_one_line(tmp_path: Path, source: Path, expected: dict[str, bytes]) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    before = set(children.read_text().split())

    def kill(done: int, total: int | None) -> None:
        for child in set(children.read_text().split()) - before:
            os.kill(int(child), signal.SIGKILL)

    with pytest.raises(Unavailable, match=r"a process that tokenises has ended \(killed by SIGKILL; .*\); try again"):
        opened(tmp_path / "made", source, workers=2, progress=kill)
    assert files(opened(tmp_path / "made", source)) == expected


@pytest.mark.parametrize("error", [OSError(errno.EAGAIN, "no room"), ValueError("no room")])
def test_a_system_that_starts_no_process_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(Unavailable, match=r"^a process that tokenises cannot be started: no room$"):
        list(pool.tokenised([making._Batch(texts=["a"])], pool.Encoder(byte_tokenizer(), END), 2))


def test_a_defect_in_another_process_is_loud() -> None:
    encoder = pool.Encoder(byte_tokenizer(), END)
    number = making._Batch(texts=[7])  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="a process that tokenises failed:\nTraceback"):
        list(pool.tokenised([number], encoder, 2))


def test_a_hub_set_that_has_changed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = list(stories(NUM))

    def rows(name: str) -> Iterator[dict[str, Any]]:
        yield from ({"text": text} for text in texts)

    monkeypatch.setattr("upslope.text.documents.hub_rows", rows)
    assert hub.is_hub_id("some/set")

    def stop(done: int, total: int | None) -> None:
        assert total is None
        if list((tmp_path / "made").glob("*/shard-00002.json")):
            raise KeyboardInterrupt

    for change in (lambda: None, lambda: texts.insert(3, "new"), lambda: texts.__delitem__(slice(20, None))):
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "made", "some/set", progress=stop)
        change()
        corpus = opened(tmp_path / "made", "some/set")
        plain = opened(tmp_path / "plain", write_rows(tmp_path / "a.jsonl", iter(texts)))
        ours, theirs = files(corpus), files(plain)
        assert ours.pop("manifest.json") != theirs.pop("manifest.json")
        assert ours == theirs
        for path in (tmp_path / "made").glob("*/*"):
            path.unlink()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, source: Path) -> None:
    (tmp_path / "made").write_text("a file is in the way")
    with pytest.raises(UserError, match="tokenised text cannot be kept in"):
        opened(tmp_path / "made", source)
