"""``upslope eval --attempts FILE``: what is in the file is not made again, and the result is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab.evaluation import evaluate_command
from upslope.lab.kept import KeptSampler, attempts_file
from upslope.lab.rows import mark_of
from upslope.model.pocket import build_model, build_tokenizer
from upslope.rollout.local import LocalSampler
from upslope.tasks.pocket_problems import Pocket, open_pocket
from upslope.training.speaking import evaluate_on, speaking
from upslope.training.view import NullView
from upslope.types import Problem

OPTIONS = {
    "model": "pocket:blank",
    "task.name": "pocket",
    "sample.max_tokens": 6,
    "eval.problems": 5,
    "eval.samples": 3,
    "device": "cpu",
}
FILE = Path("attempts.jsonl")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """The number of requests of every call to the sampler."""
    numbers: list[int] = []
    generate = LocalSampler.generate

    def counted(self, requests, *args, **kwargs):
        numbers.append(len(requests))
        return generate(self, requests, *args, **kwargs)

    monkeypatch.setattr(LocalSampler, "generate", counted)
    return numbers


def evaluated(capsys, attempts: Path | None = FILE, **changes):
    evaluate_command(load_settings(None, (), OPTIONS | changes), attempts, as_json=True)
    return json.loads(capsys.readouterr().out)


def rows(file: Path = FILE) -> list[dict]:
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def test_every_attempt_with_its_text(capsys):
    assert evaluated(capsys) == evaluated(capsys, None)
    found = rows()
    assert len(found) == 5 + 5 * 3
    assert {(row["sample"], row["temperature"]) for row in found} == {(0, 0.0), (0, 1.0), (1, 1.0), (2, 1.0)}
    assert all(len(row["tokens"]) == len(row["chosen"]) <= 6 and row["response"] for row in found)


@pytest.mark.parametrize("num", [0, 3, 5, 11, 20])
@pytest.mark.parametrize("torn", ["", '{"id": "pocket/te'])
def test_what_is_there_is_not_made_again(capsys, asked, num, torn):
    whole = evaluated(capsys)
    lines = FILE.read_text().splitlines(keepends=True)
    FILE.write_text("".join(lines[:num]) + torn)
    asked.clear()
    assert evaluated(capsys) == whole
    assert sum(asked) == 20 - num
    assert sorted(FILE.read_text().splitlines(keepends=True)) == sorted(lines)


def test_a_larger_evaluation_begins_with_the_smaller_one(capsys, asked):
    evaluated(capsys, **{"eval.samples": 1, "eval.problems": 3})
    asked.clear()
    assert evaluated(capsys) == evaluated(capsys, None)
    assert asked[:2] == [5 - 3, 15 - 3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "model and seed"),
        ({"sample.max_tokens": 5}, "sampling"),
        ({"eval.temperature": 0.5}, "sampling"),
        ({"sample.top_k": 3}, "sampling"),
        ({"learn.dtype": "float64"}, "precision and model"),
    ],
)
def test_attempts_of_another_evaluation_are_refused(capsys, change, what):
    evaluated(capsys)
    before = FILE.read_bytes()
    with pytest.raises(UserError, match=rf"attempts.jsonl row 1 was made with another {what};"):
        evaluated(capsys, **change)
    assert FILE.read_bytes() == before


def test_attempts_of_other_weights_under_the_same_name_are_refused(capsys):
    build_tokenizer().save_pretrained("model")
    build_model(0).save_pretrained("model")
    evaluated(capsys, model="model")
    build_model(1).save_pretrained("model")
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 was made with another model;"):
        evaluated(capsys, model="model")


def test_attempts_at_another_prompt_are_refused(capsys, monkeypatch):
    evaluated(capsys)
    problems = Pocket.problems

    def changed(self, split):
        return [
            Problem(p.id, ({"role": "user", "content": "Tom has 3 apples."},), p.truth) for p in problems(self, split)
        ]

    monkeypatch.setattr(Pocket, "problems", changed)
    with pytest.raises(UserError, match=r"attempts.jsonl: the prompt of problem 'pocket/test/0' is another now"):
        evaluated(capsys)


READ = ("id", "sample", "temperature", "tokens", "chosen", "ended", "unanswered", "prompt_crc")
WRONG = [
    {"id": ["a"]}, {"sample": True}, {"sample": -1}, {"temperature": "1"}, {"prompt_crc": 1.5}, {"begin": "0"},
    {"tokens": ["a"] * 6}, {"tokens": [-1] * 6}, {"tokens": [1]}, {"tokens": 3}, {"chosen": []}, {"chosen": [2] * 6},
    {"ended": "x"}, {"ended": ["stop"]}, {"unanswered": None},
]  # fmt: skip


@pytest.mark.parametrize("change", [*READ, *WRONG], ids=str)
def test_a_row_that_lacks_what_is_read_of_it_or_has_it_otherwise_is_none_of_ours(capsys, change):
    evaluated(capsys)
    first, *others = rows()
    assert len(first["tokens"]) == len(first["chosen"]) == 6
    changed = first | change if isinstance(change, dict) else {k: v for k, v in first.items() if k != change}
    FILE.write_text("".join(f"{json.dumps(row)}\n" for row in (changed, *others)))
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 is none of this command's; choose another file"):
        evaluated(capsys)


def test_a_row_that_stands_twice_is_refused(capsys):
    evaluated(capsys)
    lines = FILE.read_text().splitlines(keepends=True)
    FILE.write_text("".join([*lines, lines[2]]))
    with pytest.raises(
        UserError, match=rf"attempts.jsonl has row 3 again in row {len(lines) + 1}; take one of them out"
    ):
        evaluated(capsys)


def test_zeros_that_a_power_cut_left_are_taken_away(capsys):
    found = evaluated(capsys)
    for tail in (b"\0" * 30, b'{"id": "poc\0\0'):
        with FILE.open("ab") as file:
            file.write(tail)
        assert evaluated(capsys) == found
        assert FILE.read_bytes().endswith(b"}\n")


def test_a_file_of_something_else_is_left_alone(capsys):
    FILE.write_text('{"question": "?"}\n')
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 is none of this command's; choose another file"):
        evaluated(capsys)
    assert FILE.read_text() == '{"question": "?"}\n'


def test_progress_goes_on_from_what_is_there_and_ends_at_the_totals(capsys):
    """Greedy attempts first, then the others; the numbers never fall."""
    evaluated(capsys)
    FILE.write_text("".join(FILE.read_text().splitlines(keepends=True)[:12]))
    for _ in range(2):  # with a part to do, and with nothing
        seen = progress()
        assert seen == sorted(seen) and seen[-1][1] == 5 + 15


def progress() -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    task, given = open_pocket(), load_settings(None, (), OPTIONS)
    with speaking(given, NullView) as policy, attempts_file(FILE) as file:
        evaluate_on(
            task,
            given,
            policy,
            lambda tokens, done: seen.append((tokens, done)),
            lambda sampler: KeptSampler(sampler, file, mark_of(given, task, policy), policy.renderer),
        )
    return seen


def test_one_sample_at_temperature_0_is_the_greedy_attempt(capsys):
    found = evaluated(capsys, **{"eval.temperature": 0.0, "eval.samples": 1})
    assert found["pass_at"]["1"]["value"] == found["greedy"]["value"] and len(rows()) == 5
    with pytest.raises(UserError, match=r"eval.samples = 2 at temperature 0 would be the same attempt every time"):
        evaluated(capsys, **{"eval.temperature": 0.0, "eval.samples": 2})


def test_the_table_names_the_values_of_a_column_as_they_are(capsys):
    rows = [
        {"prompt": f"Tom has {i} apples.", "answer": "1", "level": "[/b]\x1b[2J" if i % 2 else "[old]"}
        for i in range(4)
    ]
    for file, part in (("data.jsonl", rows[:1]), ("test.jsonl", rows[1:])):
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in part))
    Path("mine.py").write_text("def one(completions, **_):\n    return [1.0 for _ in completions]\n")
    own = {
        "task.name": "user",
        "task.data": "data.jsonl",
        "task.eval_data": "test.jsonl",
        "task.rewards": ["mine.py:one"],
    }
    evaluate_command(load_settings(None, (), OPTIONS | own | {"eval.by": "level", "eval.samples": 0}), as_json=False)
    said = capsys.readouterr().out
    assert "greedy, [/b]␛[2J" in said and "greedy, [old]" in said
