"""``upslope measure``: pass rates as rows, resumed where it stopped."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import upslope_says

import upslope as up
from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab import measuring
from upslope.lab.measuring import PROMPTS, measure_command, measured_file, row_of, summed_up
from upslope.model.pocket import build_model, build_tokenizer
from upslope.types import Group, Problem, Rollout

TOOL = """
def add(a: int, b: int) -> int:
    '''Add.

    Args:
        a: One.
        b: Another.
    '''
    return a + b
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "WAVE", 2)
    Path("mine.py").write_text(
        "def odd(completions, **_):\n    return [float(len(c) % 2) for c in completions]\n\none = odd\n"
    )
    rows = [{"prompt": f"{name} has {i} apples.", "level": i} for i, name in enumerate(["Tom", "Sam", "Eva"] * 2)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    Path("t.py").write_text(TOOL)
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
    ("before", "what"),
    [
        ({"task.right": 0.5}, "right;"),
        ({"sample.stop": ["a"]}, "stop strings;"),
        ({"task.template": "raw"}, "wording of prompts;"),
        ({"task.keep_special": True}, "wording of prompts;"),
        ({"task.tools": ["t.py:add"]}, "world;"),
    ],
)
def test_what_was_left_to_its_default_later_is_another_measurement(folder, before, what):
    measure_command(settings(**before), Path("out.jsonl"))
    with pytest.raises(UserError, match=rf"out.jsonl row 1 was made with another {what}"):
        measure_command(settings(), Path("out.jsonl"))


@pytest.mark.parametrize("change", [{"task.max_turns": 3}, {"task.max_seconds": 9.0}, {"task.tool_seconds": 5.0}, {}])
def test_another_world_is_another_measurement(folder, change):
    given = {"task.tools": ["t.py:add"], "task.max_turns": 1}
    measure_command(settings(**given), Path("out.jsonl"))
    if not change:
        Path("t.py").write_text(Path("t.py").read_text().replace("a + b", "a - b"))
    with pytest.raises(UserError, match=r"out.jsonl row 1 was made with another world;"):
        measure_command(settings(**given | change), Path("out.jsonl"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task.template": "raw"}, "wording of prompts;"),
        ({"eval.samples": 3}, "samples;"),
        ({"eval.temperature": 0.5}, "sampling;"),
        ({"seed": 1}, "model and seed;"),  # the blank pocket model is a function of the seed
        ({"sample.max_tokens": 4}, "sampling;"),
        ({"task.rewards": ["mine.py:one"]}, "reward;"),
        ({"task.reward_weights": [2.0]}, "reward;"),
        ({"learn.dtype": "float64"}, "precision and model;"),
    ],
)
def test_another_measurement_does_not_go_into_the_same_file(folder, change, what):
    measure_command(settings(), Path("out.jsonl"))
    before = Path("out.jsonl").read_text()
    with pytest.raises(UserError, match=rf"out.jsonl row 1 was made with another {what}"):
        measure_command(settings(**change), Path("out.jsonl"))
    assert Path("out.jsonl").read_text() == before


def test_other_weights_under_the_same_name_do_not_go_into_the_same_file(folder):
    for seed in (0, 1):
        build_model(seed).save_pretrained("model")
        build_tokenizer().save_pretrained("model")
        if seed:
            with pytest.raises(UserError, match=r"out.jsonl row 1 was made with another model;"):
                measure_command(settings(model="model"), Path("out.jsonl"))
        else:
            measure_command(settings(model="model"), Path("out.jsonl"))


def test_a_changed_reward_of_the_same_name_is_another_measurement(folder):
    measure_command(settings(), Path("out.jsonl"))
    Path("mine.py").write_text("def odd(completions, **_):\n    return [1.0 for c in completions]\n")
    with pytest.raises(UserError, match=r"row 1 was made with another reward"):
        measure_command(settings(), Path("out.jsonl"))


def test_changed_problems_under_the_same_ids_are_another_measurement(folder):
    measure_command(settings(), Path("out.jsonl"))
    Path("data.jsonl").write_text(Path("data.jsonl").read_text().replace("apples", "pens"))
    before = Path("out.jsonl").read_text()
    with pytest.raises(UserError, match=r"out.jsonl: the problem 'user/train/0' is another now"):
        measure_command(settings(), Path("out.jsonl"))
    assert Path("out.jsonl").read_text() == before


FOREIGN = ['{"lr": 1e-4, "mine": true}', '{"id": 1, "prompt": "?"}', "notes", '{"id": 1}\n', "one\ntwo", "\n", "\xff"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_that_is_none_is_left_alone(folder, content):
    """With and without a newline at its end: half a row of ours is taken away, and nothing else ever is."""
    file = Path("mine.json")
    file.write_text(content)
    with pytest.raises(UserError, match=r"mine.json row \d is none of this command's; choose another file"):
        measure_command(settings(), file)
    assert file.read_text() == content


WRONG = [
    "id", "num_samples", "num_right", "pass_rate", "mean_reward", "mean_length", "cut", "crc",
    {"num_samples": 0}, {"num_right": 9, "pass_rate": 9 / 4}, {"num_right": "1"}, {"pass_rate": "0.5"},
    {"pass_rate": 7}, {"crc": None}, {"id": 3}, {"mean_length": "long"},
]  # fmt: skip


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_row_that_lacks_what_is_read_of_it_or_has_it_otherwise_is_none_of_ours(folder, change):
    out = Path("out.jsonl")
    measure_command(settings(), out)
    first, *others = map(json.loads, out.read_text().splitlines())
    changed = first | change if isinstance(change, dict) else {k: v for k, v in first.items() if k != change}
    out.write_text("".join(f"{json.dumps(row)}\n" for row in (changed, *others)))
    with pytest.raises(UserError, match=r"out.jsonl row 1 is none of this command's; choose another file"):
        measure_command(settings(), out)


def test_a_problem_that_stands_twice_is_refused(folder):
    out = Path("out.jsonl")
    measure_command(settings(), out)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([*lines, lines[1]]))
    with pytest.raises(UserError, match=rf"out.jsonl has row 2 again in row {len(lines) + 1}; take one of them out"):
        measure_command(settings(), out)


def test_the_data_is_not_measured_into_itself(folder):
    with pytest.raises(UserError, match=r"data.jsonl is the data itself"):
        measure_command(settings(), Path("data.jsonl"))


@pytest.mark.parametrize(("to", "why"), [("no/x.jsonl", "there is no folder no"), (".", "is a folder")])
def test_a_place_where_no_file_can_be_is_known_before_a_model_is_loaded(folder, to, why):
    with pytest.raises(UserError, match=why):
        measure_command(settings(model="./nowhere"), Path(to))


def test_one_process_writes_at_a_time(folder):
    with measured_file(Path("out.jsonl")), pytest.raises(UserError, match=r"another process writes to out.jsonl"):
        measure_command(settings(), Path("out.jsonl"))


@pytest.mark.parametrize("name", ["num_right", "cut", "crc"])
def test_a_column_of_the_data_is_not_overwritten(folder, name):
    rows = [{"prompt": "Tom has 3 apples.", name: "mine"}]
    Path("data.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UserError, match=rf"user/train/0 has a column '{name}', which a measurement would overwrite"):
        measure_command(settings(model="./nowhere"), Path("out.jsonl"))


def test_what_was_measured_can_be_measured_again(folder):
    measure_command(settings(), Path("out.jsonl"))
    measure_command(settings(**{"task.data": "out.jsonl", "seed": 3}), Path("again.jsonl"))
    assert [row["level"] for row in rows("again.jsonl")] == list(range(6))


def test_cells_that_json_cannot_hold(folder):
    when = datetime.datetime(2026, 1, 2)
    pq.write_table(pa.table({"prompt": ["Tom has 3 apples."], "when": [when], "x": [math.nan]}), "data.parquet")
    measure_command(settings(**{"task.data": "data.parquet"}), Path("out.jsonl"))
    (row,) = rows("out.jsonl")
    assert row["when"] == str(when) and row["x"] is None
    Path("data.jsonl").write_text('{"prompt": "Tom has 3 apples.", "odd": "\\ud800"}\n')
    measure_command(settings(), Path("other.jsonl"))
    assert rows("other.jsonl")[0]["odd"] == "\ud800"


def test_a_row_has_its_prompt_also_where_the_columns_have_none(folder):
    message = {"role": "user", "content": "?"}
    for chat, prompt in (
        ((message,), "?"),
        ((message | {"role": "system"}, message), [message | {"role": "system"}, message]),
    ):
        problem = Problem("x", chat, "4", columns={"level": 1})
        row = row_of(Group(problem, (Rollout("x", 0, (1,), (2,), (True,), None, 0, "stop", "4"),)))
        assert (row["prompt"], row["answer"], row["level"]) == (prompt, "4", 1)


@pytest.mark.parametrize("name", ["prompt", "text", "problem", "instruction", "conversations"])
def test_a_prompt_under_any_name_is_not_written_twice(name):
    """Of a row with two of them nobody could say which one is asked (`text` and `prompt` of MBPP)."""
    problem = Problem("x", ({"role": "user", "content": "?"},), "4", columns={name: "?", "level": 1})
    row = row_of(Group(problem, (Rollout("x", 0, (1,), (2,), (True,), None, 0, "stop", "4"),)))
    assert row.keys() & {*PROMPTS, "answer"} == {name}


@pytest.mark.parametrize("key", ["eval.problems=3", "eval.by=prompt", "eval.text_tokens=9"])
def test_how_an_evaluation_chooses_is_refused(folder, monkeypatch, capsys, key):
    words = ["measure", "pocket:blank", key, "--data", "data.jsonl", "--reward", "mine.py:odd"]
    code, _, said = upslope_says(monkeypatch, capsys, *words)
    assert code == 2 and f"upslope measure does not read {key.split('=')[0]}" in said


@pytest.mark.parametrize(
    ("change", "why"), [({"eval.samples": 0}, "at least one"), ({"eval.temperature": 0.0}, "the same")]
)
def test_attempts_that_would_be_none_or_the_same(folder, change, why):
    with pytest.raises(UserError, match=why):
        measure_command(settings(**change), Path("out.jsonl"))


def test_the_summary():
    lines = summed_up([{"pass_rate": r, "num_samples": 4} for r in (0, 0, 0.5, 1)])
    assert (
        lines[0]
        == "4 problems, 4 attempts each: never solved 2 (50.0%), sometimes solved 1 (25.0%), always solved 1 (25.0%)"
    )
    assert lines[1].startswith("pass rate 37.5%")
