"""``upslope eval --attempts FILE``: what is in the file is not made again, and the result is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab.evaluation import evaluate_command
from upslope.model.pocket import build_model, build_tokenizer
from upslope.rollout.local import LocalSampler
from upslope.tasks.pocket_problems import Pocket
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
    "change", [{"seed": 1}, {"sample.max_tokens": 5}, {"eval.temperature": 0.5}, {"sample.top_k": 3}]
)
def test_attempts_of_another_evaluation_are_refused(capsys, change):
    evaluated(capsys)
    before = FILE.read_bytes()
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 was made with other weights, another task, seed or"):
        evaluated(capsys, **change)
    assert FILE.read_bytes() == before


def test_attempts_of_other_weights_under_the_same_name_are_refused(capsys):
    build_tokenizer().save_pretrained("model")
    build_model(0).save_pretrained("model")
    evaluated(capsys, model="model")
    build_model(1).save_pretrained("model")
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 was made with other weights"):
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


def test_a_file_of_something_else_is_left_alone(capsys):
    FILE.write_text('{"question": "?"}\n')
    with pytest.raises(UserError, match=r"attempts.jsonl row 1 is none of this command's; choose another file"):
        evaluated(capsys)
    assert FILE.read_text() == '{"question": "?"}\n'
