"""What a data set looks like before a run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny

from upslope.config import load_settings
from upslope.errors import UserError
from upslope.lab.dataset.alike import shared_problems
from upslope.lab.dataset.command import data_command
from upslope.lab.dataset.judged import Judged, odd_rewards
from upslope.lab.dataset.lengths import TokenLengths
from upslope.types import Problem

WORDS = [f"word{i}" for i in range(200)]


def asked(name: str, text: str) -> Problem:
    return Problem(name, ({"role": "user", "content": text},))


def test_a_copy_is_found_whatever_its_case_and_spacing() -> None:
    found = shared_problems(
        [asked("a", "How many apples does Sam have now?")], [asked("b", "how many  APPLES does sam\nhave now ?")]
    )
    assert [(pair.held_out, pair.train, pair.exact) for pair in found] == [("b", "a", True)]


def test_a_changed_number_is_near_and_another_story_is_not() -> None:
    story = " ".join(WORDS[:60])
    near, other = story.replace("word30", "word199"), " ".join(WORDS[60:120])
    found = shared_problems([asked("a", story)], [asked("near", near), asked("other", other)])
    # 56 runs of five words each; the changed word is in 5 of them: 51 / (56 + 56 - 51).
    assert [(pair.held_out, pair.share) for pair in found] == [("near", 51 / 61)]


def test_it_finds_what_comparing_every_pair_finds() -> None:
    chance = random.Random(0)
    texts = [[chance.choice(WORDS[:30]) for _ in range(chance.randrange(1, 30))] for _ in range(40)]
    changed = [list(text) for text in texts]
    for text in changed:
        if chance.random() < 0.7:
            text[chance.randrange(len(text))] = chance.choice(WORDS)
    train = [asked(f"t{i}", " ".join(text)) for i, text in enumerate(texts)]
    held_out = [asked(f"h{i}", " ".join(text)) for i, text in enumerate(changed)]

    def runs(text: list[str]) -> set[tuple[str, ...]]:
        return {tuple(text[i : i + 5]) for i in range(max(len(text) - 4, 1))}

    expected = {}
    for i, one in enumerate(changed):
        best = max(len(runs(one) & runs(other)) / len(runs(one) | runs(other)) for other in texts)
        if best >= 0.6:
            expected[f"h{i}"] = best
    assert {pair.held_out: pair.share for pair in shared_problems(train, held_out, near=0.6)} == expected
    assert 5 < len(expected) < 40


def test_forms_of_speech_are_no_copies() -> None:
    same = "what is the answer to this question"
    many = [asked(f"h{i}", f"{same} number{i}") for i in range(300)]
    assert shared_problems([asked("t", f"{same} something else entirely")], many) == []
    assert [pair.exact for pair in shared_problems(many, many)] == [True] * 300


def test_odd_rewards_are_said() -> None:
    assert odd_rewards([Judged("the demonstration", (1.0, 1.0)), Judged("nothing", (0.0, 0.0))]) == []
    lines = odd_rewards([Judged("the demonstration", (1.0, 1.0)), Judged("nothing", (1.0, 1.0))])
    assert lines == ["2 of 2 times nothing earns something: the reward can be had for nothing"]


def test_the_spread_is_of_the_tokens() -> None:
    assert TokenLengths(tuple(range(1, 102)), ()).spread == (1, 51, 96, 101)
    assert TokenLengths((), ()).spread == (0, 0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = tiny.model(max_position_embeddings=64)
    model.save_pretrained(tmp_path / "model")
    tiny.TOKENIZER.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"Sam has {i} books and gets 2 more . How many ?", "completion": f"#### {i + 2}"} for i in range(9)
    ]
    rows.append({"prompt": "Sam has 3 books " * 20, "completion": "#### 3"})
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(row | {"answer": row["completion"]}) + "\n" for row in rows)
    )
    held = [rows[4], {"prompt": "Ann has 7 pens . How many pens has Ann ?", "completion": "#### 7"}]
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps(row | {"answer": row["completion"]}) + "\n" for row in held)
    )
    (tmp_path / "r.py").write_text(
        "def right(completions, answer, **_):\n    return [float(c == a) for c, a in zip(completions, answer)]\n"
    )
    return tmp_path


def told(folder: Path, capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    options = {
        "model": "model",
        "task.data": "train.jsonl",
        "task.eval_data": "test.jsonl",
        "task.rewards": ["r.py:right"],
    }
    data_command(load_settings(None, ["sample.max_tokens=8"], options), 1, as_json=as_json)
    return capsys.readouterr().out


def test_the_command_says_what_a_run_would_stumble_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = told(folder, capsys)
    assert "10 training problems, 2 held out" in words
    assert "TOO LONG: 1 of them with 8 tokens for an attempt, for the model's 64 positions: " in words
    assert "1 of 2 held-out problems are in the training data, 0 more nearly" in words
    assert "here the policy begins to write" in words and "Sam has 0 books" in words


def test_the_same_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(folder, capsys, as_json=True))
    assert (found["train"], found["held_out"]) == (10, 2)
    assert found["alike"][0]["share"] == 1.0
    assert len(found["lengths"]["prompts"]["tokens"]) == 10


def test_a_row_that_is_not_there_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="--row 11: there are"):
        data_command(load_settings(None, [], {"model": "model", "task.data": "train.jsonl"}), 11, as_json=False)
