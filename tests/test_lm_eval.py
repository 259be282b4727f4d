"""examples/gsm8k/against_lm_eval.py judges by the harness's rules exactly, where the harness is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from scripts import loaded

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "gsm8k"
TEXTS = [
    "so 3*6 = 18\n#### 18",
    "#### 1,018.50",
    "#### 18.",
    "#### $18",
    "#### 17\n#### 18",
    "the answer is 18",
    "It costs $1,018.",
    "from -4 to 7-3",
    "nothing at all",
    "",
    "5 apples ####",
    "#### 18 or 20",
]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return loaded(FOLDER / "against_lm_eval.py")


def test_the_rules_are_those_of_the_yaml(example: ModuleType) -> None:
    strict, flexible = (f["filter"][0] for f in yaml.safe_load((FOLDER / "lm_eval.yaml").read_text())["filter_list"])
    assert strict["regex_pattern"] == example.STRICT.pattern
    assert flexible["regex_pattern"] == example.FLEXIBLE.pattern and flexible["group_select"] == -1


def test_the_prompt_of_the_yaml_is_the_tasks(example: ModuleType) -> None:
    from upslope.tasks.grade_school import INSTRUCTION

    asked = yaml.safe_load((FOLDER / "lm_eval.yaml").read_text())["doc_to_text"]
    assert asked == "{{question}}\n\n" + INSTRUCTION


def test_answers_are_read_as_the_harness_reads_them(example: ModuleType) -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    strict = extraction.RegexFilter(example.STRICT.pattern)
    flexible = extraction.RegexFilter(example.FLEXIBLE.pattern, group_select=-1)
    docs = [{}] * len(TEXTS)
    assert [found[0] for found in strict.apply([[t] for t in TEXTS], docs)] == [
        example.first(example.STRICT, t) for t in TEXTS
    ]
    assert [found[0] for found in flexible.apply([[t] for t in TEXTS], docs)] == [
        example.last(example.FLEXIBLE, t) for t in TEXTS
    ]


def test_both_sides_get_the_same_problems(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is longer than what is asked for the harness takes the first rows, upslope a sample."""
    for name in ("train", "test"):
        rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = []

    def harness(model: str, data: str, problems: int, max_tokens: int) -> dict[str, float]:
        rows = map(json.loads, (Path(data) / "test.jsonl").read_text().splitlines())
        seen.extend(row["question"] for row in list(rows)[:problems])
        return {}

    monkeypatch.setattr(example, "by_the_harness", harness)
    found = []
    inner = example.up.evaluate

    def evaluate(*given: object, **named: object) -> object:
        result = inner(*given, **named)
        found.extend(group.problem.messages[0]["content"].split("\n")[0] for group in result.greedy)
        return result

    monkeypatch.setattr(example.up, "evaluate", evaluate)
    shares = example.compare("pocket:blank", str(tmp_path), 7, 4)
    assert found == seen == [f"What is {i} + 1?" for i in range(7)]
    assert shares["upslope, strict"] == shares["upslope, strict-match"] == 0.0


@pytest.mark.parametrize(
    ("answer", "truth", "right"), [("1,018", "1018", True), ("$18.", "18", True), ("18.0", "18", False)]
)
def test_exact_match_ignores_commas_dollars_and_a_final_point(
    example: ModuleType, answer: str, truth: str, right: bool
) -> None:
    assert example.same(answer, truth) is right
