"""What a command says of the model that it opens and of the rows that it leaves out, once, as a run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from in_process import upslope_says

from upslope.model.pocket import build_tokenizer
from upslope.model.policy import Policy

REWARD = "def odd(completions, **_):\n    return [float(sum(map(ord, c)) % 2) for c in completions]\n"
ROWS = [{"prompt": prompt} for prompt in ("Tom.", "Tom has 3 apples and 4 pens.", "Sam has 5 apples and 6 pens.")]
LONG = {"prompt": "pens " * 300}
GIVEN = ("--data", "rows", "--reward", "mine.py:odd", "--max-tokens", "5", "--device", "cpu")
LIMITS = ("task.min_prompt_tokens=5", "task.too_long=drop")
COMMANDS: dict[str, tuple[str, ...]] = {
    "eval": ("eval", "model", *GIVEN, *LIMITS),
    "measure": ("measure", "model", *GIVEN, *LIMITS, "--samples", "1"),
    "bench": ("bench", "--model", "model", "--device", "cpu", "--shape", "1x2x2", "--repeat", "1"),
    "serve": ("serve", "model", "--device", "cpu"),
}
SIDE = {"eval": "held-out", "measure": "training"}


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARD)
    Path("rows").mkdir()
    for side in ("train", "test"):
        Path("rows", f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, LONG]))
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<think>"])  # without a row for it: something to say
    Policy(tiny.model(dtype=torch.float32), tokenizer).save(Path("model"))
    monkeypatch.setattr("upslope.serve.command.serve_policy", lambda *_: None)
    monkeypatch.setattr("upslope.lab.bench.ceiling.SIDE", 64)
    monkeypatch.setattr("upslope.lab.bench.ceiling.READ_BYTES", 2**16)

    def run(*words: str) -> str:
        code, out, err = upslope_says(monkeypatch, capsys, *words)
        assert code == 0, err
        return out + err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_what_there_is_to_know_is_said_once(said: Any, command: str) -> None:
    told = said(*COMMANDS[command])
    assert told.count("the tokenizer has '<think>', and the model no embedding for it") == 1
    if command in SIDE:
        side = SIDE[command]
        assert told.count(f"(task.min_prompt_tokens = 5) 3 of 4 {side} problems are taken") == 1
        assert told.count(f"task.too_long: 1 of 3 {side} problems left out") == 1


def test_rows_that_are_too_long_are_not_measured_if_that_is_wanted(said: Any) -> None:
    said(*COMMANDS["measure"])
    measured = [json.loads(line)["prompt"] for line in Path("measured.jsonl").read_text().splitlines()]
    assert measured == [row["prompt"] for row in ROWS[1:]]
    said(*COMMANDS["measure"])  # and it goes on with them
