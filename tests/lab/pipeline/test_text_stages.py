"""A pipeline whose stages read text: what stands in it counts, and where it lies does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipelines import said_by

from upslope.errors import UserError
from upslope.lab.predicting import predict_command
from upslope.training.pipeline.made_of import content_of, text_of
from upslope.training.tables import to_settings

FILE = """
name = "it"
device = "cpu"
problems = 2
steps = 1

[task]
text = ["a.jsonl"]

[[stage]]
name = "read"
model = "pocket:blank"
recipe = { name = "pretrain", sample.block = 16 }
learn = { dtype = "float32", warmup = 0 }
eval = { text_tokens = 64 }

[[stage]]
name = "test"
kind = "eval"
eval = { text_tokens = 64 }
"""


@pytest.fixture(autouse=True)
def folder(place: Path) -> Path:
    Path("it.toml").write_text(FILE)
    write("a.jsonl", "apples")
    return place


def write(file: str, what: str) -> None:
    texts = [f"{n} {what} and {n * n} {what}" for n in range(200)]
    Path(file).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def do(*settings: str, **more: object) -> list[str]:
    return said_by("it.toml", *settings, **more)


def test_text_that_is_other_text_makes_another_stage_and_another_place_does_not() -> None:
    do()
    Path("a.jsonl").rename("b.jsonl")
    assert do('task.text=["b.jsonl"]') == ["stage 1 of 2: read, done before", "stage 2 of 2: test, done before"]
    write("b.jsonl", "pears")
    with pytest.raises(UserError, match=r"^stage read is done in .*, and the text is not what it was; give --redo"):
        do('task.text=["b.jsonl"]')
    write("b.jsonl", "apples")
    write("c.jsonl", "pears")
    with pytest.raises(UserError, match=r"^stage test is done in .*, and the text is not what it was; give --redo"):
        do('task.text=["b.jsonl"]', 'test.task.text=["c.jsonl"]')


def test_text_counts_source_by_source() -> None:
    for place in ("x", "y", "z"):
        Path(place).mkdir()
        Path(place, "one.txt").write_text("one")
    Path("x/two.txt").write_text("two")
    Path("y/two.txt").write_text("two")
    Path("three.txt").write_text("two")
    assert text_of(["x"]) == text_of(["y"]) != text_of(["z"])
    assert text_of(["x"]) != text_of(["z", "three.txt"])


def test_a_stage_predicts_text_as_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    do()
    (row,) = map(json.loads, Path("runs/it/test/journal.jsonl").read_text().splitlines())
    table = {"model": "runs/it/read", "device": "cpu", "task": {"text": ["a.jsonl"]}, "eval": {"text_tokens": 64}}
    capsys.readouterr()
    predict_command(to_settings(table), every=False, as_json=True)
    told = json.loads(capsys.readouterr().out)
    for key in ("held_out_loss", "bits_per_byte", "held_out_tokens", "held_out_bytes"):
        assert row[key] == pytest.approx(told[key], rel=1e-6)  # a journal has eight digits
    assert "| test | eval |" in Path("runs/it/report.md").read_text()
    # Where none is held out, all of it is predicted.
    do("test.task.text_held_out=0", redo=True)
    (row,) = map(json.loads, Path("runs/it/test/journal.jsonl").read_text().splitlines())
    assert row["held_out_bytes"] == sum(len(json.loads(r)["text"]) for r in Path("a.jsonl").read_text().splitlines())


def test_text_that_is_one_document_cannot_be_held_out_of_an_evaluation() -> None:
    Path("one.txt").write_text("1 apple")
    with pytest.raises(UserError, match=r"^stage test: no document of one\.txt is held out; .*text_held_out = 0"):
        do('test.task.text=["one.txt"]')


def test_a_stage_begins_with_the_best_checkpoint_of_an_earlier_one() -> None:
    own = [
        "read.steps=2",
        "read.save.every=1",
        "read.save.best=true",
        "read.eval.every=1",
        "test.model=stage:read@best",
    ]
    do(*own)
    assert "held_out_loss" in Path("runs/it/test/journal.jsonl").read_text()
    assert 'model = "stage:read@best"' in Path("runs/it/pipeline.toml").read_text()
    assert do(*own) == ["stage 1 of 2: read, done before", "stage 2 of 2: test, done before"]
    with pytest.raises(UserError, match="'stage:rad@best' is no earlier stage"):
        do("test.model=stage:rad@best")
    # The best of a run elsewhere is noted by what it holds.
    noted = content_of(Path("runs/it/read@best"))
    manifest = next(Path("runs/it/read/checkpoints").glob("step-*")) / "manifest.json"
    best = json.loads(Path("runs/it/read/best.json").read_text())["step"]
    assert noted.startswith(f"{best}-") and manifest.exists()
    Path("runs/it/read/best.json").unlink()
    assert content_of(Path("runs/it/read@best")) == ""


def test_the_tokenizer_beside_a_config_counts() -> None:
    from upslope.model.new import new_model
    from upslope.model.pocket import build_tokenizer
    from upslope.model.settings import NewModelSettings

    made, _ = new_model("new:llama", NewModelSettings(tokenizer="pocket", depth=1, width=64), 0)
    Path("own").mkdir()
    made.config.to_json_file("own/small.json")
    build_tokenizer().save_pretrained("own")
    own = ["read.model=new:own/small.json"]
    do(*own, only=["read"])
    Path("own/notes.txt").write_text("no part of it")
    assert do(*own, only=["read"]) == ["stage 1 of 2: read, done before"]
    Path("own/tokenizer_config.json").write_text(Path("own/tokenizer_config.json").read_text() + " ")
    with pytest.raises(UserError, match=r"stage read is done .* the tokenizer beside model is not what it was"):
        do(*own, only=["read"])
