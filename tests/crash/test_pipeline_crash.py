"""Whatever ends a pipeline, in whichever stage, the same command goes on, and every stage ends with the same bits."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crash.cases import MEASURED, digest
from crash.forks import HALF, KILL, Ended, Server, Tap, in_memory, serving

STAGES = ("read", "imitate", "try")
FILE = """
name = "it"
steps = 2
problems = 1
device = "cpu"
learn = { dtype = "float32", lr = 0.01, warmup = 0 }
sample = { max_tokens = 6 }
eval = { problems = 1 }
save = { every = 1 }

[task]
name = "pocket"

[[stage]]
name = "read"
model = "pocket:blank"
recipe = "pretrain"

[[stage]]
name = "imitate"
recipe = "sft"

[[stage]]
name = "try"
recipe = { name = "grpo", sample = { group_size = 2 } }
"""
COMMAND = ("pipeline", "it.toml", "--plain")
FOLDER = Path("runs/it")
PATIENCE = 600
"""Seconds for a stage to begin, on a machine that does much else."""


class Place:
    """A server, and folders to work in; ``whole`` is what an undisturbed pipeline leaves, in ``seconds``."""

    def __init__(self, server: Server, scratch: Path) -> None:
        self.server, self._scratch = server, scratch
        undisturbed = self.folder("undisturbed")
        log = scratch / "changes"
        ended = server.run(COMMAND, undisturbed, Tap(undisturbed / FOLDER, KILL, 0, str(log)) if server.tap else None)
        assert (ended.code, ended.err) == (0, ""), ended
        self.whole, self.seconds = contents(undisturbed), ended.seconds
        self.changes = log.read_text(errors="replace").splitlines() if server.tap else []

    def folder(self, name: str) -> Path:
        place = self._scratch / name
        place.mkdir()
        (place / "it.toml").write_text(FILE)
        return place

    def run(self, place: Path, *words: str, tap: Tap | None = None) -> Ended:
        return self.server.run([*COMMAND, *words], place, tap)

    def finish(self, place: Path) -> None:
        """The same command, to the end, and what must be so then."""
        ended = self.run(place)
        assert (ended.code, ended.err) == (0, ""), ended
        assert contents(place) == self.whole
        shutil.rmtree(place)

    def killed_at(self, moment: int) -> str:
        """SIGKILL before the n-th change, or in the middle of a write; which stage was being done. Then the same
        command to the end."""
        place = self.folder(f"at-{moment}")
        how = HALF if self.changes[moment - 1].startswith("write") else KILL
        ended = self.run(place, tap=Tap(place / FOLDER, how, moment))
        assert ended.code == -signal.SIGKILL, ended
        stage = under_way(place)
        self.finish(place)
        return stage


@pytest.fixture(scope="module")
def at() -> Iterator[Place]:
    with in_memory() as scratch, serving(scratch) as server:
        yield Place(server, scratch)


@pytest.fixture
def tapped(at: Place) -> None:
    if not at.changes:
        pytest.skip("nothing can stand between a process and the system here: no Linux, or no compiler")


def contents(place: Path) -> dict[str, Any]:
    """Everything of the stages that must be equal, and every name there is."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in (place / FOLDER).rglob("*") if path.is_file()):
        name = file.relative_to(place / FOLDER).as_posix()
        if file.suffix in (".safetensors", ".parquet"):
            found[name] = digest(file)
        elif file.name == "journal.jsonl":
            rows = map(json.loads, file.read_text().splitlines())
            found[name] = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        elif not file.name.endswith(".part"):
            found[name] = ""
    return found


def under_way(place: Path) -> str:
    """The stage that is being done."""
    file = place / FOLDER / "stages.json"
    notes = json.loads(file.read_text()) if file.exists() else {}
    return next((name for name, note in notes.items() if not note["left"]), "")


@pytest.mark.parametrize(
    "stage",
    [s if s == STAGES[-1] else pytest.param(s, marks=[pytest.mark.slow, pytest.mark.exhaustive]) for s in STAGES],
)
def test_killed_in_each_stage(at: Place, tapped: None, stage: str) -> None:
    """Somewhere in the second half of what the stage writes: between its steps, or in a checkpoint."""
    own = [moment for moment, change in enumerate(at.changes, 1) if f"/{stage}/" in change]
    assert at.killed_at(own[2 * len(own) // 3]) == stage


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_while_it_notes_that_a_stage_is_done(at: Place, tapped: None) -> None:
    notes = [moment for moment, change in enumerate(at.changes, 1) if "stages.json" in change]
    assert at.killed_at(notes[len(notes) // 2]) in STAGES


@pytest.mark.slow
@pytest.mark.exhaustive
def test_killed_at_every_third_change(at: Place, tapped: None) -> None:
    killed = [at.killed_at(moment) for moment in range(1, len(at.changes), 3)]
    assert {*killed} >= {*STAGES}


def test_killed_again_and_again(at: Place) -> None:
    place = at.folder("again")
    for moment in (0.3, 0.5, 0.7):
        child = at.server.start(COMMAND, place)
        time.sleep(moment * at.seconds)
        child.signal(signal.SIGKILL)
        child.wait()
    at.finish(place)


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        pytest.param("read", signal.SIGINT, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
        ("imitate", signal.SIGTERM),
        pytest.param("try", signal.SIGINT, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_asked_to_stop_in_each_stage(at: Place, stage: str, number: int) -> None:
    place = at.folder(f"asked-{stage}-{number}")
    child = at.server.start([*COMMAND, f"{stage}.steps=200000"], place)
    latest = time.monotonic() + PATIENCE
    journal = place / FOLDER / stage / "journal.jsonl"
    while not (journal.exists() and '"kind": "step"' in journal.read_text()):
        assert time.monotonic() < latest, "the stage does not begin"
        time.sleep(0.02)
    child.signal(number)
    ended = child.wait()
    assert (ended.code, ended.err) == (128 + number, ""), ended
    last = ended.out.splitlines()[-1]
    assert last == f"stopped; continue with: upslope pipeline it.toml {stage}.steps=200000"
    assert list((place / FOLDER / stage / "checkpoints").glob("step-*"))
    refused = at.run(place)
    assert refused.code == 2 and f"stage {stage} is begun" in refused.err and "steps is 2 now" in refused.err
    shutil.rmtree(place)


def test_a_second_pipeline_in_the_same_folder_is_told_so(at: Place) -> None:
    place = at.folder("two")
    child = at.server.start(COMMAND, place)
    latest = time.monotonic() + PATIENCE
    while not (place / FOLDER / "stages.json").exists():
        assert time.monotonic() < latest, "it does not begin"
        time.sleep(0.01)
    second = at.run(place)
    assert second.code == 2 and f"belongs to process {child.pid} on " in second.err
    assert len(second.err.splitlines()) == 1
    assert child.wait().code == 0
    at.finish(place)
