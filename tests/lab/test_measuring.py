"""``upslope measure``: pass rates as rows, resumed where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import upslope as up
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab import measuring
from upslope.lab.measuring import measure_command, summed_up
from upslope.model.pocket import build_model, build_tokenizer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "WAVE", 2)
    Path("mine.py").write_text("def odd(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n")
    rows = [{"prompt": f"{name} has {i} apples.", "level": i} for i, name in enumerate(["Tom", "Sam", "Eva"] * 2)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    return tmp_path


OPTIONS = {
    "model": "pocket:blank",
    "task.data": "data.jsonl",
    "task.eval_data": "test.jsonl",
    "task.rewards": ["mine.py:odd"],
    "sample.max_tokens": 5,
    "eval.samples": 4,
    "device": "cpu",
}


def settings(**changes):
    return load_settings(None, (), OPTIONS | changes)


def rows(file):
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_a_row_a_problem_with_its_own_columns(folder, capsys):
    measure_command(settings(), Path("out.jsonl"))
    found = rows("out.jsonl")
    assert [row["level"] for row in found] == list(range(6))
    assert all(row["num_samples"] == 4 and row["pass_rate"] == row["num_right"] / 4 for row in found)
    assert 0 < sum(row["num_right"] for row in found) < 24
    assert "6 problems, 4 attempts each" in capsys.readouterr().err
    again = up.tasks.rows("out.jsonl", ["mine.py:odd"], eval_data="test.jsonl")
    assert [p.columns["num_right"] for p in again.problems("train")] == [row["num_right"] for row in found]


@pytest.mark.parametrize("torn", ["", '{"id": "user/tr'])
def test_it_goes_on_where_it_stopped_to_the_same_file(folder, torn):
    measure_command(settings(), Path("whole.jsonl"))
    whole = Path("whole.jsonl").read_text()
    kept = "".join(whole.splitlines(keepends=True)[:2])
    Path("part.jsonl").write_text(kept + torn)
    measure_command(settings(), Path("part.jsonl"))
    assert Path("part.jsonl").read_text() == whole
    measure_command(settings(), Path("part.jsonl"))
    assert Path("part.jsonl").read_text() == whole, "and once more does nothing"


def test_an_id_of_the_datas_own_and_any_character_do_not_keep_it_from_going_on(folder):
    """gsm8k numbers its problems itself; a line separator of Unicode is no end of a row."""
    row = {"id": "mine", "question": "Tom has\u2028 3 apples?", "answer": "so\n#### 3"}
    for name in ("train", "test"):
        Path(f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    given = {"task.name": "gsm8k", "task.data": ".", "task.eval_data": None, "task.rewards": []}
    options = {k: v for k, v in (OPTIONS | given).items() if v is not None}
    for _ in range(2):
        measure_command(load_settings(None, (), options), Path("own.jsonl"))
    (found,) = (json.loads(line) for line in Path("own.jsonl").read_text().split("\n")[:-1])
    assert found["id"] == "gsm8k/train/0" and found["question"] == row["question"]


@pytest.mark.parametrize(
    "change", [{"eval.samples": 3}, {"eval.temperature": 0.5}, {"seed": 1}, {"sample.max_tokens": 4}]
)
def test_another_measurement_does_not_go_into_the_same_file(folder, change):
    measure_command(settings(), Path("out.jsonl"))
    before = Path("out.jsonl").read_text()
    with pytest.raises(UserError, match=r"out.jsonl row 1 was made with other weights, another task, seed or sampling"):
        measure_command(settings(**change), Path("out.jsonl"))
    assert Path("out.jsonl").read_text() == before


def test_other_weights_under_the_same_name_do_not_go_into_the_same_file(folder):
    for seed in (0, 1):
        build_model(seed).save_pretrained("model")
        build_tokenizer().save_pretrained("model")
        if seed:
            with pytest.raises(UserError, match=r"out.jsonl row 1 was made with other weights"):
                measure_command(settings(model="model"), Path("out.jsonl"))
        else:
            measure_command(settings(model="model"), Path("out.jsonl"))


def test_a_file_that_is_none_is_left_alone(folder):
    with pytest.raises(UserError, match=r"data.jsonl row 1 is none of this command's"):
        measure_command(settings(), Path("data.jsonl"))


def test_the_summary():
    lines = summed_up([{"pass_rate": r, "num_samples": 4} for r in (0, 0, 0.5, 1)])
    assert (
        lines[0]
        == "4 problems, 4 attempts each: never solved 2 (50.0%), sometimes solved 1 (25.0%), always solved 1 (25.0%)"
    )
    assert lines[1].startswith("pass rate 37.5%")
