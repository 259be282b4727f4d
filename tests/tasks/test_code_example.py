"""The example whose answers are small programs: its rows are what its script makes, and the model can say them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from scripts import loaded

import upslope as up
from upslope.model.pocket import UNKNOWN, build_tokenizer
from upslope.tasks.sandbox import confine

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "code"


def test_the_rows_are_those_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = loaded(FOLDER / "programs.py")
    monkeypatch.setattr(script, "__file__", str(tmp_path / "programs.py"))
    script.main()
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()


def test_the_pocket_model_has_a_word_for_everything() -> None:
    tokenizer = build_tokenizer()
    for name in ("train.jsonl", "test.jsonl"):
        for line in (FOLDER / name).read_text().splitlines():
            row = json.loads(line)
            for text in (row["prompt"], row["demonstration"]):
                tokens = tokenizer.encode(text)
                assert tokenizer.convert_tokens_to_ids(UNKNOWN) not in tokens
                assert tokenizer.decode(tokens) == text


@pytest.mark.skipif(sys.platform != "linux" or not confine.landlock_version(), reason="needs Linux with Landlock")
def test_fewer_than_half_of_the_demonstrations_are_right() -> None:
    task = up.tasks.open("code", data=str(FOLDER), options={"instruction": "", "seconds": 1})
    shown = task.demonstrations()[:200]
    scores = task.score(shown, [str(problem.demonstration) for problem in shown])
    assert sum(score.reward for score in scores) / 200 == pytest.approx(0.44, abs=0.1)
