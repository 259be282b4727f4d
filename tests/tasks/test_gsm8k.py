"""Task gsm8k on tiny made-up rows: prompt, demonstration, truth, splits, reward, and errors that name their row."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from upslope.errors import UserError
from upslope.tasks import grade_school
from upslope.tasks.rewards import Rewards

EGGS = {"question": "Ann has 3 boxes of 6 eggs. How many eggs?", "answer": "She has 3*6 = <<3*6=18>>18 eggs.\n#### 18"}
RICH = {"question": "Bo has 2 times $600. How much?", "answer": "2*600=<<2*600=1200>>1,200\n#### 1,200"}


def write(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write(tmp_path / "train.jsonl", EGGS, RICH)
    write(tmp_path / "test.jsonl", RICH)
    return str(tmp_path)


def test_a_problem(folder: str) -> None:
    problem = grade_school.open(folder).problems("train")[0]
    assert problem.id == "gsm8k/train/0"
    assert problem.messages == ({"role": "user", "content": f"{EGGS['question']}\n\n{grade_school.INSTRUCTION}"},)
    assert problem.truth == "18"
    assert problem.demonstration == "She has 3*6 = 18 eggs.\n#### 18"
    assert problem.columns == EGGS
    assert not problem.plain


def test_truth_is_canonical_and_ids_follow_the_split(folder: str) -> None:
    task = grade_school.open(folder)
    assert [(p.id, p.truth) for p in task.problems("test")] == [("gsm8k/test/0", "1200")]
    assert [p.id for p in task.demonstrations()] == ["gsm8k/train/0", "gsm8k/train/1"]
    assert task.documents() == ()


def test_annotations_can_be_kept(folder: str) -> None:
    assert grade_school.open(folder, keep_annotations=True).demonstrations()[0].demonstration == EGGS["answer"]


def test_the_reward_is_exact(folder: str) -> None:
    task = grade_school.open(folder)
    eggs, rich = task.problems("train")
    responses = ["#### 18.00 eggs", "#### -18", "18", "#### 17\n#### 18", "#### 18 or 17", "#### $1,200."]
    scores = task.score([eggs] * 5 + [rich], responses)
    assert [score.reward for score in scores] == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    assert [score.extracted for score in scores] == ["18", "-18", None, "18", None, "1200"]
    assert all(not score.parts for score in scores)


def test_the_instruction_repeated_is_no_answer(folder: str) -> None:
    task = grade_school.open(folder)
    assert task.score(task.problems("test"), [grade_school.INSTRUCTION])[0].extracted is None


def test_one_response_for_each_problem(folder: str) -> None:
    task = grade_school.open(folder)
    with pytest.raises(ValueError, match="shorter"):
        task.score(task.problems("train"), ["#### 18"])


def test_own_rewards_replace_the_reward_and_see_question_and_answer(folder: str) -> None:
    def asks(question: list[str], answer: list[str], completions: list[Any]) -> list[float]:
        assert completions == [[{"role": "assistant", "content": "#### 5"}]]
        return [
            0.25 if q == EGGS["question"] and a == EGGS["answer"] else 0.0
            for q, a in zip(question, answer, strict=True)
        ]

    task = grade_school.open(folder, rewards=Rewards({"asks": asks}, (1.0,)))
    (score,) = task.score(task.problems("train")[:1], ["#### 5"])
    assert (score.reward, score.extracted) == (0.25, "5")


def test_a_single_file_is_divided_by_prompt(tmp_path: Path) -> None:
    rows = [{"question": f"What is {i // 2} + 1?", "answer": f"#### {i // 2 + 1}"} for i in range(800)]
    task = grade_school.open(write(tmp_path / "all.jsonl", *rows))
    train, test = task.problems("train"), task.problems("test")
    assert len(train) + len(test) == 800
    # 400 distinct prompts, each held out with probability 0.1: 40 expected, standard deviation 6, twice each
    assert 2 * 20 <= len(test) <= 2 * 60
    assert not {p.messages[0]["content"] for p in train} & {p.messages[0]["content"] for p in test}
    assert all(p.id.startswith("gsm8k/test/") for p in test)
    # more rows, in another order, leave every old row on its side
    again = grade_school.open(write(tmp_path / "more.jsonl", *reversed(rows), EGGS, RICH))
    assert {p.columns["question"] for p in test} <= {p.columns["question"] for p in again.problems("test")}
    assert {p.columns["question"] for p in train} <= {p.columns["question"] for p in again.problems("train")}


def test_eval_data_is_the_test_side_and_the_file_wholly_train(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(50)]
    task = grade_school.open(write(tmp_path / "a.jsonl", *rows), eval_data=write(tmp_path / "b.jsonl", EGGS))
    assert len(task.problems("train")) == 50
    assert [p.truth for p in task.problems("test")] == ["18"]


def test_a_missing_side_is_an_error_only_when_it_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", EGGS)
    task = grade_school.open(str(tmp_path))
    assert len(task.problems("test")) == 1
    with pytest.raises(UserError, match=r"no train problems \(1 in all\).*--data"):
        task.problems("train")


def test_fingerprint_depends_on_content_only(folder: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write(other / "train.jsonl", EGGS, RICH)
    write(other / "test.jsonl", RICH)
    first = grade_school.open(folder).fingerprint()
    assert len(first) == 64
    assert grade_school.open(str(other)).fingerprint() == first
    assert grade_school.open(folder, keep_annotations=True).fingerprint() != first
    write(other / "test.jsonl", EGGS)
    assert grade_school.open(str(other)).fingerprint() != first
    write(other / "train.jsonl", RICH, EGGS)
    write(other / "test.jsonl", RICH)
    assert grade_school.open(str(other)).fingerprint() != first  # the order matters


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "q"}', "needs 'answer', a worked solution"),
        ('{"answer": "#### 1"}', "needs 'question'"),
        ('{"question": " ", "answer": "#### 1"}', "needs 'question'"),
        ('{"question": "q", "answer": 18}', "needs 'answer', a worked solution"),
        ('{"question": "q", "answer": "18"}', "does not end with '#### <number>'; add"),
        ("{question", "not JSON"),
        ("[1]", "a list, not an object"),
        ('{"x": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(EGGS) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        grade_school.open(str(tmp_path)).problems("train")
    assert f"{path} row 3: " in str(caught.value)  # the blank second line counts as a row of the file
    assert says in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        grade_school.open(str(tmp_path)).problems("train")


def test_a_byte_order_mark_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(EGGS), encoding="utf-8-sig")
    assert len(grade_school.open(str(tmp_path)).problems("train")) == 1


def test_paths_are_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data file"):
        grade_school.open(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(UserError, match=r"needs train\.jsonl or test\.jsonl"):
        grade_school.open(str(tmp_path))
    with pytest.raises(UserError, match="--eval-data without --data"):
        grade_school.open(eval_data="x.jsonl")


def test_the_hub_is_asked_when_rows_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*name: str) -> dict[str, list[dict[str, str]]]:
        asked.append(name)
        return {"train": [EGGS], "test": [RICH]}

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    task = grade_school.open()
    assert asked == []
    assert [p.truth for p in (*task.problems("train"), *task.problems("test"))] == ["18", "1200"]
    assert asked == [("openai/gsm8k", "main")]


def test_without_datasets_or_network_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # import raises ImportError
    with pytest.raises(UserError, match=r"pip install 'upslope\[hub\]'.*--data"):
        grade_school.open().problems("train")

    def load_dataset(*name: str) -> None:
        raise ConnectionError("no route\nto host")

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(UserError, match=r"ConnectionError: no route to host.*offline, give --data"):
        grade_school.open().problems("train")
