"""Going on with a run: what is said, what may change, and a checkpoint that nobody could go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from in_process import upslope_says

from upslope.record.checkpoint import newest, steps

ROWS = [{"prompt": f"{name} has {i} apples."} for i, name in enumerate(["Tom", "Sam", "Eva", "Leo"] * 2)]
RUN = [
    *(
        "train",
        "--model",
        "pocket:blank",
        "--data",
        "data.jsonl",
        "--reward",
        "mine.py:odd",
        "--name",
        "mine",
        "--plain",
    ),
    *("problems=2", "recipe.sample.group_size=4", "eval.problems=0", "sample.max_tokens=5", "learn.warmup=0"),
    *("learn.lr=0.01", "save.every=1", "save.keep=9", "device=cpu", "learn.measure_every=0"),
]
REWARD = "def odd(completions, **_):\n    return [float(sum(map(ord, c)) % 2) for c in completions]\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(ROWS)
    Path("mine.py").write_text(REWARD)
    return tmp_path / "runs" / "mine"


def write(rows: list[dict[str, str]]) -> None:
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def upslope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str]:
        code, out, err = upslope_says(monkeypatch, capsys, *words)
        return code, out + err

    return call


def notes(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [note for row in rows if row["kind"] == "resume" for note in row["notes"]]


def test_a_run_that_is_as_it_was_goes_on_without_a_word(upslope, folder):
    assert upslope(*RUN, "steps=2")[0] == 0
    assert upslope("train", "--resume", "runs/mine")[0] == 0
    assert notes(folder) == []


def test_more_steps_and_another_rate_are_recorded(upslope, folder):
    assert upslope(*RUN, "steps=2")[0] == 0
    code, said = upslope("train", "--resume", "runs/mine", "--steps", "3", "learn.lr=0.02", "save.keep=2")
    assert code == 0
    expected = ["learn.lr is 0.02 now, it was 0.01", "save.keep is 2 now, it was 9", "steps is 3 now, it was 2"]
    assert sorted(notes(folder)) == expected and all(note in said for note in expected)
    assert steps(folder / "checkpoints") == [2, 3]


@pytest.mark.parametrize(
    "change", ["problems=4", "recipe=grpo", "learn.lora_rank=2", "seed=1", "--seed=1", "other.toml"]
)
def test_what_is_learnt_from_whom_cannot_change(upslope, folder, change):
    assert upslope(*RUN, "steps=1")[0] == 0
    code, said = upslope("train", "--resume", "runs/mine", change)
    assert (
        code == 2
        and "--resume continues a run with its own " in said
        and "only steps, epochs, minutes, tokens," in said
    )


def test_changed_data_and_code_are_said(upslope, folder):
    assert upslope(*RUN, "steps=2")[0] == 0
    write([row | {"more": "x"} for row in ROWS])
    Path("mine.py").write_text(REWARD + "\n# another\n")
    assert upslope("train", "--resume", "runs/mine", "steps=3")[0] == 0
    said = [note.partition(":")[0] for note in notes(folder)]
    assert said == [
        "steps is 3 now, it was 2",
        "the task's data changed since step 2",
        "the user's code changed since step 2",
    ]


def test_another_version_is_said(upslope, folder):
    assert upslope(*RUN, "steps=1")[0] == 0
    found = newest(folder / "checkpoints")
    state = json.loads((found.folder / "run_state.json").read_text())
    assert state["made_with"]["torch"]
    rewrite(found.folder, state | {"made_with": state["made_with"] | {"torch": "1.0", "gone": "3"}})
    code, said = upslope("train", "--resume", "runs/mine")
    assert (
        code == 0
        and "torch changed since step 1: 1.0 then, " in said
        and "gone changed since step 1: 3 then, none" in said
    )


def rewrite(checkpoint: Path, state: dict) -> None:
    """Another state under the manifest's seal."""
    import hashlib

    file, manifest = checkpoint / "run_state.json", checkpoint / "manifest.json"
    file.write_text(json.dumps(state))
    hashes = json.loads(manifest.read_text()) | {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(hashes))


def test_a_damaged_newest_checkpoint_is_passed_over_aloud(upslope, folder):
    assert upslope(*RUN, "steps=3")[0] == 0
    (folder / "checkpoints" / "step-000003" / "model.safetensors").write_bytes(b"junk")
    code, said = upslope("train", "--resume", "runs/mine")
    assert code == 0 and "step-000003 is passed over: model.safetensors is not as it was written" in said
    assert newest(folder / "checkpoints").step == 3


def test_from_an_earlier_checkpoint(upslope, folder):
    assert upslope(*RUN, "steps=3")[0] == 0
    whole = (folder / "journal.jsonl").read_text()
    code, said = upslope("train", "--resume", "runs/mine", "--from", "1", "steps=2")
    assert code == 0 and "from=1" in said
    assert steps(folder / "checkpoints") == [1, 2] and newest(folder / "checkpoints").step == 2
    assert not list((folder / "checkpoints").glob(".*"))
    rows = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "step"] == [0, 1]
    assert json.loads(whole.splitlines()[1])["reward"] == [row for row in rows if row["kind"] == "step"][1]["reward"]


@pytest.mark.parametrize(
    ("since", "why"), [("7", "there is none"), ("2", "model.safetensors is missing"), ("0", "none")]
)
def test_from_a_checkpoint_that_is_not_there(upslope, folder, since, why):
    assert upslope(*RUN, "steps=3")[0] == 0
    (folder / "checkpoints" / "step-000002" / "model.safetensors").unlink()
    code, said = upslope("train", "--resume", "runs/mine", "--from", since)
    assert code == 2 and why in said and "there are 1, 2, 3" in said
    assert steps(folder / "checkpoints") == [1, 2, 3]
    assert upslope("train", "--from", "1")[0] == 2


def test_weights_that_compute_nothing_finite_are_not_saved(upslope, folder):
    """A rate of 1e10 leaves weights that are finite, and log-probabilities that are not."""
    assert upslope(*RUN, "steps=2")[0] == 0
    code, said = upslope("train", "--resume", "runs/mine", "steps=6", "learn.lr=1e10")
    assert code == 2 and "continue with: upslope train --resume runs/mine" in said
    assert newest(folder / "checkpoints").step == 2
    assert upslope("train", "--resume", "runs/mine", "steps=3", "learn.lr=0.01")[0] == 0
    assert newest(folder / "checkpoints").step == 3


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(upslope, folder):
    Path("mine.py").write_text(REWARD.replace("return", "raise ValueError\n    return"))
    assert upslope(*RUN, "steps=2")[0] == 2
    assert (folder / "run.toml").exists() and not steps(folder / "checkpoints")
    Path("mine.py").write_text(REWARD)
    assert upslope("train", "--resume", "runs/mine")[0] == 0
    assert newest(folder / "checkpoints").step == 2


@pytest.mark.parametrize("content", ["", "x", "\x00"])
def test_a_run_file_that_is_none_is_one_line(upslope, folder, content):
    assert upslope(*RUN, "steps=1")[0] == 0
    (folder / "run.toml").write_text(content)
    code, said = upslope("train", "--resume", "runs/mine")
    assert code == 2 and "run.toml" in said and "Traceback" not in said


def test_checkpoints_without_their_journal_are_refused(upslope, folder):
    assert upslope(*RUN, "steps=1")[0] == 0
    (folder / "journal.jsonl").unlink()
    code, said = upslope("train", "--resume", "runs/mine")
    assert code == 2 and "has checkpoints and no journal.jsonl" in said


def test_a_run_whose_checkpoints_are_gone_does_not_forget_its_journal(upslope, folder):
    assert upslope(*RUN, "steps=3")[0] == 0
    before = (folder / "journal.jsonl").read_bytes()
    shutil.rmtree(folder / "checkpoints")
    code, said = upslope("train", "--resume", "runs/mine", "steps=4")
    assert code == 2 and "has 3 steps in its journal and no checkpoint, though one was written every 1" in said
    assert (folder / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("option", ["--name", "--out", "--model"])
def test_an_option_that_is_given_empty_is_refused(upslope, option):
    assert upslope(*RUN, option, "")[1].endswith(f"{option} is empty; give a value, or leave the option out\n")


def test_what_a_run_has_no_use_for_is_not_asked_of_its_task(upslope, folder):
    """Here demonstrations, in a recipe that makes its own attempts."""
    Path("own.py").write_text(
        "from upslope.types import Problem, Score\n"
        "class Own:\n"
        "    def problems(self, split):\n"
        "        return [Problem(f'{split}/{i}', ({'role': 'user', 'content': 'Tom'},)) for i in range(2)]\n"
        "    def score(self, problems, responses): return [Score(0.0) for _ in responses]\n"
        "    def demonstrations(self): raise ValueError('there are none')\n"
    )
    words = ("train", "--model", "pocket:blank", "--task", "own.py:Own", "problems=2", "steps=1", "eval.problems=0")
    code, said = upslope(*words, "sample.max_tokens=4", "--name", "mine", "device=cpu")
    assert code == 0, said
    assert upslope("train", "--resume", "runs/mine")[0] == 0 and notes(folder) == []
