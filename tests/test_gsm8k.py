"""The real run on next to nothing: every stage, once, and nothing a second time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import upslope_says
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "gsm8k" / "run.py"


def loaded() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gsm8k_run", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def little(smollm2_dir: Path, place: Path) -> list[str]:
    """The script's arguments for next to nothing: a random model with SmolLM2's tokenizer, and six problems."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16}
    model = place / "model"
    config = AutoConfig.from_pretrained(smollm2_dir, dtype=torch.float32, **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    AutoTokenizer.from_pretrained(smollm2_dir).save_pretrained(model)
    for name in ("train", "test"):
        rows = [
            {
                "question": f"A pen costs {i} dollars. What do 3 cost?",
                "answer": f"3*{i} = <<3*{i}={3 * i}>>{3 * i}\n#### {3 * i}",
            }
            for i in range(2, 8)
        ]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(model), "--data", str(place), "--smoke", "--out", str(place / "gsm8k")]


def test_every_stage_runs_and_what_is_done_is_skipped(
    smollm2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands are given in this process: eight others would spend minutes on their imports."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script, words, given = loaded(), little(smollm2_dir, tmp_path), []

    def here(*arguments: str, read: bool = False) -> str:
        given.append(arguments[0])
        said = upslope_says(monkeypatch, capsys, *arguments)
        assert said.code == 0, said.err
        return said.out if read else ""

    monkeypatch.setattr(script, "upslope", here)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    script.main()
    first = capsys.readouterr().out
    assert given == ["train", "eval", "eval"] * 2 + ["eval"] * 2
    out = tmp_path / "gsm8k-smoke"
    for stage in ("start", "sft", "rl-0"):
        for ending, samples in (("", 2), ("-alone", 0)):
            found = json.loads((out / f"{stage}{ending}.json").read_text())
            assert found["greedy"]["num_problems"] == 2 and "lenient" in found
            assert ("pass_at" in found) == bool(samples)
            attempts = (out / f"{stage}{ending}.attempts.jsonl").read_text().splitlines()
            assert len(attempts) == 2 * (1 + samples)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (out / "table.md").read_text().splitlines()]
    assert rows[0][1:6] == [
        "greedy, strict",
        "greedy, lenient",
        "pass@1",
        "pass@2",
        "tokens: its own + the calculator's",
    ]
    without = "the same, without the calculator"
    assert [row[0] for row in rows[2:]] == [
        *("as it comes", without),
        *("imitation", without),
        *("reinforcement learning, seed 0", without),
    ]
    assert [bool(row[4]) for row in rows[2:]] == [True, False] * 3
    assert [row[-1].split(",")[0] for row in rows[2:]] == ["", "", "2 steps", "", "2 steps", ""]
    assert (out / "picture.png").read_bytes().startswith(b"\x89PNG")
    for run in ("sft", "rl-0"):
        rows = [json.loads(line) for line in (out / run / "journal.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if row["kind"] == "step"] == [0, 1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    again = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment)
    assert again.returncode == 0 and "upslope train" not in again.stderr and "upslope eval" not in again.stderr
    assert again.stdout == first


def test_a_command_of_a_stage_is_a_process_and_its_failure_the_scripts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = loaded()
    assert script.upslope("--version", read=True).strip() == f"upslope {version('upslope')}"
    with pytest.raises(SystemExit) as end:
        script.upslope("train", "--recipe", "grop")
    assert end.value.code == 2 and "did you mean 'grpo'" in capfd.readouterr().err


def test_what_was_made_with_other_words_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = loaded()
    monkeypatch.setattr(script, "upslope", lambda *arguments, read=False: "{}")
    result, attempts = tmp_path / "sft.json", tmp_path / "sft.attempts.jsonl"
    script.evaluate(result, ["sft", "--problems", "2"])
    script.evaluate(result, ["sft", "--problems", "2"])
    with pytest.raises(SystemExit, match=r"made with sft --problems 2; now asked for is sft\. ") as told:
        script.evaluate(result, ["sft"])
    assert str(told.value).endswith(f"or remove {result}")
    attempts.touch()
    with pytest.raises(SystemExit, match=r"sft\.json and .*sft\.attempts\.jsonl$"):
        script.evaluate(result, ["sft"])
    attempts.unlink()
    result.unlink()
    script.evaluate(result, ["sft"])

    (tmp_path / "rl").mkdir()
    script.train(tmp_path / "rl", "rl.toml", ["steps=2"])
    (tmp_path / "rl" / "run.toml").touch()
    with pytest.raises(SystemExit, match=f"or remove {tmp_path}$"):
        script.train(tmp_path / "rl", "rl.toml", ["steps=3"])
