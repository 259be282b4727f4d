"""A pipeline that begins with a tokenizer of the text it then reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from pipelines import said_by
from typer.testing import CliRunner

import upslope as up
from upslope.cli.commands import app
from upslope.errors import UserError
from upslope.model.load import open_tokenizer
from upslope.training.view import NullView

FILE = """
name = "new"
problems = 2
steps = 2

[task]
text = ["words.jsonl"]

[[stage]]
name = "words"
kind = "tokenizer"
vocab = 280

[[stage]]
name = "read"
model = "new:llama"
recipe = { name = "pretrain", sample.block = 16 }
new = { tokenizer = "stage:words", depth = 1, width = 64 }
learn = { dtype = "float32", warmup = 0 }
eval = { text_tokens = 64 }

[[stage]]
name = "again"
recipe = { name = "pretrain", sample.block = 16 }
learn = { dtype = "float32", warmup = 0 }
eval = { text_tokens = 64 }
"""


@pytest.fixture(autouse=True)
def folder(place: Path) -> Path:
    Path("new.toml").write_text(FILE)
    write_words("apples")
    return place


def write_words(what: str) -> None:
    texts = [f"there are {n} {what} in the house, and {n * n} more {what} in the garden" for n in range(200)]
    Path("words.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def do(*settings: str, **more: object) -> list[str]:
    return said_by("new.toml", *settings, **more)


def test_a_stage_learns_the_tokenizer_that_the_next_one_reads_with(folder: Path) -> None:
    do(only=["words"])
    assert "| words | tokenizer |" in (folder / "runs/new/report.md").read_text()
    do()
    made = open_tokenizer("runs/new/words")
    assert len(made) == 280
    assert open_tokenizer(str(next(folder.glob("runs/new/read/checkpoints/step-*")))).get_vocab() == made.get_vocab()
    for stage in ("read", "again"):
        assert "bits_per_byte" in (folder / "runs/new" / stage / "journal.jsonl").read_text()
    assert "report.png" in (folder / "runs/new/report.md").read_text()


def test_a_tokenizer_that_is_done_is_not_learnt_again_while_its_text_is_the_same() -> None:
    do()
    made = Path("runs/new/words/tokenizer.json")
    before = made.stat().st_mtime_ns
    Path("words.jsonl").touch()
    do()
    assert made.stat().st_mtime_ns == before
    write_words("pears")
    with pytest.raises(UserError, match=r"stage words.* the text is not what it was"):
        do()
    do(redo=True)
    assert made.stat().st_mtime_ns != before
    assert Path("runs/new/words.set-aside").exists() and Path("runs/new/read.set-aside").exists()


def test_what_a_killed_process_had_written_of_a_tokenizer_goes() -> None:
    half = Path("runs/new/.words.123.part")
    half.mkdir(parents=True)
    (half / "tokenizer.json").write_text("{")
    do(only=["words"])
    assert not half.exists() and Path("runs/new/words/tokenizer.json").exists()


def test_a_stage_tells_its_view_what_it_learnt_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Kept(NullView):
        said: ClassVar[list[str]] = []

        def message(self, text: str) -> None:
            self.said.append(text)

    up.pipeline("new.toml", ["task.text_held_out=0.1"], only=["words"], progress=Kept, say=lambda line: None)
    assert any(line.startswith("280 tokens, from ") and "bytes a token on held-out text" in line for line in Kept.said)
    do(only=["words"], name="other")
    assert capsys.readouterr() == ("", "")


def test_the_command_names_a_picture_where_one_was_drawn() -> None:
    def said(*words: str) -> str:
        return CliRunner().invoke(app, ["pipeline", "new.toml", "--plain", *words], catch_exceptions=False).output

    first = said("--only", "words")
    assert "report      runs/new/report.md" in first and "picture" not in first
    assert "picture     runs/new/report.png" in said("--only", "words", "--only", "read")


@pytest.mark.parametrize("setting", ["words.vocab=90000", "words.vocab=9000000"])
def test_a_mistake_in_a_stage_names_the_key_and_no_option(setting: str) -> None:
    with pytest.raises(UserError, match=r"^stage words: .*\(vocab\)") as told:
        do(setting)
    assert "--" not in str(told.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("words.vocab='many'", "vocab = 'many' must be a whole number"),
        ("words.vocab=10", "must have at least 260"),
        ("words.task.text=[]", "set task.text"),
        ("words.steps=3", "a stage of kind tokenizer does not read steps"),
    ],
)
def test_what_no_tokenizer_can_be_learnt_with_is_told_before_anything_is_done(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        do(setting)
    assert not Path("runs").exists()
