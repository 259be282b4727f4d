"""What each tracker's own reader finds of a run: every number once, texts, configuration; after a resume as well.

TensorBoard is read by its EventAccumulator, Trackio by its Api and its storage. wandb has no public reader of the file
that it writes offline, so that one is read here: the format of LevelDB's log, with wandb's own messages in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked import DOCUMENT, attempts, eval_row, record, recorded, step_row

from upslope.record.columns import COLUMNS
from upslope.record.folder import FolderRecorder
from upslope.record.trackers.export import export_run
from upslope.record.trackers.known import tracker_of
from upslope.record.trackers.mark import read_mark
from upslope.record.trackers.recorder import TrackedRecorder

REWARDS = [(0, 0.0), (1, 1 / 8), (2, 2 / 8), (3, 3 / 8)]
AGAIN = [(0, 0.0), (1, 1 / 8), (2, 9.0), (3, 9.0), (4, 9.0)]


def make_again(folder: Path, *, tracked: list[str], first: int = 2) -> None:
    """A resumed run: from the checkpoint after ``first`` steps, with other rewards than before, to the fifth step."""
    inner = FolderRecorder(folder)
    recorder = TrackedRecorder(inner, tracked, tracker_of, print) if tracked else inner
    recorder.rewind(first)
    recorder.begin(DOCUMENT)
    for step in range(first, 5):
        if step == 4:
            recorder.add_attempts("step", step, attempts(step))
        recorder.add(step_row(step, reward=9.0))
    recorder.add(eval_row(5))
    if isinstance(recorder, TrackedRecorder):
        recorder.close()


# -- tensorboard ------------------------------------------------------------------------------------------------------


def accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in accumulated(folder).Scalars(tag)]


def text(folder: Path, tag: str) -> dict[int, str]:
    events = accumulated(folder).Tensors(f"{tag}/text_summary")
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events}


def test_tensorboard_reads_every_number_and_text(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    said: list[str] = []
    recorder = TrackedRecorder(FolderRecorder(tmp_path), ["tensorboard"], tracker_of, said.append)
    recorder.begin(DOCUMENT)
    record(recorder, range(4))
    recorder.close()
    assert said == [f"tensorboard: tensorboard --logdir {tmp_path}/tensorboard"]
    assert scalars(tmp_path, "outcome/reward") == REWARDS
    assert scalars(tmp_path, "eval/greedy") == [(0, 0.0), (2, 2 / 16)]
    assert scalars(tmp_path, "eval/greedy/high") == [(0, 1.0), (2, 1.0)]
    assert scalars(tmp_path, "time/seconds/sample") == [(step, 0.5) for step in range(4)]
    assert text(tmp_path, "attempts/step/5")[3] == "reward 1\n\n    3 + 8 = ?\n\n---\n\n    **11**"
    assert 'name = "grpo"' in text(tmp_path, "run/run.toml")[0]
    assert f"| update/lr | {COLUMNS['lr'].words} |" in text(tmp_path, "run/columns")[0]
    assert "custom_scalars__config__" in accumulated(tmp_path).Tags()["tensors"]


def test_tensorboard_shows_steps_that_were_made_again_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = recorded(tmp_path / "run")
    for _ in range(2):
        list(export_run(folder, ["tensorboard"]))
        assert scalars(folder, "outcome/reward") == REWARDS
    make_again(folder, tracked=["tensorboard"])
    assert scalars(folder, "outcome/reward") == AGAIN
    assert [step for step, _ in scalars(folder, "eval/greedy")] == [0, 2, 5]
    assert text(folder, "attempts/step/0").keys() == {0, 1, 4}
    assert len(list((folder / "tensorboard").iterdir())) == 1
    recorder = TrackedRecorder(FolderRecorder(folder), ["tensorboard"], tracker_of, print)
    recorder.rewind(5)
    recorder.begin(DOCUMENT)
    recorder.add(step_row(5, reward=9.0))
    recorder.close()
    assert scalars(folder, "outcome/reward") == [*AGAIN, (5, 9.0)]
    assert len(list((folder / "tensorboard").iterdir())) == 2  # it went on in a file of its own


def test_tensorboard_begins_anew_where_nothing_says_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = recorded(tmp_path / "run")
    list(export_run(folder, ["tensorboard"]))
    (folder / "trackers" / "tensorboard.json").unlink()
    list(export_run(folder, ["tensorboard"]))
    assert scalars(folder, "outcome/reward") == REWARDS


# -- trackio and wandb, in processes of their own: they keep state, and read their variables when imported ------------


def in_process(code: str, folder: Path, **variables: str) -> str:
    place = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support"), *sys.path]
    cleared = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TRACKIO"))}
    variables |= {"PYTHONPATH": os.pathsep.join(place), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=cleared | variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PRELUDE = """
import json, sys
from pathlib import Path
from tracked import DOCUMENT, record, recorded
from test_tracker_formats import make_again
from upslope.record.folder import FolderRecorder
from upslope.record.trackers.export import export_run
from upslope.record.trackers import recorder as module
from upslope.record.trackers.known import tracker_of
from upslope.record.trackers.recorder import TrackedRecorder
folder = Path(sys.argv[1])
module.LAST_SECONDS = 300.0
def track(name):
    recorder = TrackedRecorder(FolderRecorder(folder), [name], tracker_of, print)
    recorder.begin(DOCUMENT)
    record(recorder, range(4))
    recorder.close()
"""
READ_TRACKIO = """
def read(title):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage
    found = []
    for run in trackio.Api().runs("upslope"):
        logs = SQLiteStorage.get_logs("upslope", run.name, run_id=run.id)
        traces = SQLiteStorage.get_traces("upslope", run.name, run_id=run.id)
        found.append({"id": run.id, "name": run.name, "config": run.config, "logs": logs, "traces": traces})
    print("READ", title, json.dumps(found, default=str))
"""


@pytest.mark.slow
def test_trackio_reads_every_number_and_attempt_once(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    code = f"""{PRELUDE}{READ_TRACKIO}
track("trackio")
read("tracked")
print(*export_run(folder, ["trackio"]))
read("exported")
recorder = TrackedRecorder(FolderRecorder(folder), ["trackio"], tracker_of, print)
recorder.rewind(4)
recorder.begin(DOCUMENT)
record(recorder, [4])
recorder.close()
read("resumed")
make_again(folder, tracked=["trackio"])
read("again")
recorded(folder.with_name("other") / folder.name)
print(*export_run(folder.with_name("other") / folder.name, ["trackio"]))
read("other")
"""
    printed = in_process(code, tmp_path / "run", TRACKIO_DIR=str(tmp_path / "trackio"))
    lines = [line.split(" ", 2) for line in printed.splitlines() if line.startswith("READ ")]
    found = {title: json.loads(content) for _, title, content in lines}
    assert "trackio: has all of it" in printed.splitlines()

    def column(run: dict[str, Any], name: str) -> list[tuple[int, float]]:
        return sorted((log["step"], log[name]) for log in run["logs"] if name in log)

    for title in ("tracked", "exported"):
        (run,) = found[title]
        assert column(run, "outcome/reward") == REWARDS
        assert column(run, "eval/greedy") == [(0, 0.0), (2, 2 / 16)]
        assert column(run, "eval/greedy/low") == [(0, 0.0), (2, 0.0)]
        assert run["config"]["recipe"] == {"name": "grpo"}
        assert run["name"] == "run"
        assert len(run["traces"]) == 4 * 6
        assert [
            [message["content"] for message in trace["messages"]]
            for trace in run["traces"]
            if trace["metadata"].get("reward") == 1.0 and trace["step"] == 3
        ] == [["3 + 8 = ?", "**11**"]]
    (tracked,), (resumed,), (again,) = found["tracked"], found["resumed"], found["again"]
    assert tracked["id"] == resumed["id"]
    assert column(resumed, "outcome/reward") == [*REWARDS, (4, 0.5)]
    assert column(again, "outcome/reward") == AGAIN
    assert [step for step, _ in column(again, "eval/greedy")] == [0, 2, 5]
    assert again["name"] == "run"
    assert read_mark(tmp_path / "run", "trackio").id == again["id"]
    names = sorted(run["name"] for run in found["other"])  # another folder's run of the same name is another run
    assert names[0] == "run"
    assert len(names) == 2
    assert names[1].startswith("run-")


def records(file: Path) -> Iterator[Any]:
    """The messages in a file of wandb: after seven bytes of its own, LevelDB's log. In blocks of 32 KiB stand parts of
    records, each after its checksum (4 bytes), its length (2) and its kind (1: whole 1, first 2, middle 3, last 4)."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, part = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if kind == 0:
            break
        part = (part if kind in (3, 4) else b"") + content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found = Record()
            found.ParseFromString(part)
            yield found


def history(folder: Path) -> tuple[dict[str, list[tuple[int, Any]]], dict[str, Any], set[str]]:
    """By column (step, value) of all sessions in a run's folder, configuration, and wandb's ids of the run."""
    columns: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    config: dict[str, Any] = {}
    ids = set()
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for found in records(file):
            if found.HasField("run"):
                ids.add(found.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in found.run.config.update}
            if found.HasField("history"):
                row = {"/".join(item.nested_key) or item.key: item.value_json for item in found.history.item}
                for name, value in row.items():
                    columns[name].append((int(row["step"]), json.loads(value)))
    return columns, config, ids


@pytest.fixture(scope="module")
def by_wandb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that wandb recorded, offline."""
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb") / "run"
    printed = in_process(f"{PRELUDE}track('wandb'); print(*export_run(folder, ['wandb']))", folder)
    assert "wandb: wandb sync " in printed
    assert "wandb: has all of it" in printed
    return folder


@pytest.mark.slow
def test_wandb_reads_every_number_and_attempt_once(by_wandb: Path) -> None:
    columns, config, ids = history(by_wandb)
    assert columns["outcome/reward"] == REWARDS
    assert columns["eval/greedy"] == [(0, 0.0), (2, 2 / 16)]
    assert columns["eval/greedy/high"] == [(0, 1.0), (2, 1.0)]
    assert config["recipe"] == {"name": "grpo"}
    assert {f"offline:{id}" for id in ids} == {read_mark(by_wandb, "wandb").id}
    tables = [
        json.loads(file.read_text())
        for file in by_wandb.glob("wandb/offline-run-*/files/media/table/attempts/step_*.json")
    ]
    assert len(tables) == 4
    assert [3, "3 + 8 = ?", "**11**", 1.0] in [row for table in tables for row in table["data"]]


@pytest.mark.slow
@pytest.mark.exhaustive  # wandb takes a quarter of a minute to begin, four times
def test_a_resumed_run_is_the_same_to_wandb_and_what_nobody_uploaded_is_taken_back(
    by_wandb: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(by_wandb, folder, symlinks=True)
    ids = history(folder)[2]
    resumed = """
recorder = TrackedRecorder(FolderRecorder(folder), ["wandb"], tracker_of, print)
recorder.rewind(4)
recorder.begin(DOCUMENT)
record(recorder, [4], evals=())
recorder.close()
"""
    in_process(PRELUDE + resumed, folder)
    columns, _, now = history(folder)
    assert now == ids  # the same run of wandb, in a second folder
    assert len(list(folder.glob("wandb/offline-run-*"))) == 2
    assert columns["outcome/reward"] == [*REWARDS, (4, 0.5)]

    in_process(f"{PRELUDE}make_again(folder, tracked=['wandb'])", folder)
    columns, _, now = history(folder)
    assert columns["outcome/reward"] == AGAIN  # what nobody had uploaded was taken back
    assert [step for step, _ in columns["eval/greedy"]] == [0, 2, 5]
    assert now.isdisjoint(ids)

    for file in folder.glob("wandb/offline-run-*/*.wandb"):
        file.with_suffix(".wandb.synced").touch()
    in_process(f"{PRELUDE}make_again(folder, tracked=['wandb'], first=3)", folder)
    columns, _, last = history(folder)
    assert last == now
    assert columns["outcome/reward"] == AGAIN  # uploaded: what was made first stays
