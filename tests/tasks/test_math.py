"""Task ``math``: what an answer is, when it is right; and no expression hangs, runs as code, or ends the run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.tasks.boxed import MAX_ANSWER, boxed, number_of, plainly, same_answer
from upslope.tasks.registry import open_task
from upslope.types import Problem


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{18}", "18"),
        (r"\boxed{1} or rather \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{x : x > 1\right\}}", r"\left\{x : x > 1\right\}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{1", None),
        (r"\boxed{1} and \boxed{2", None),
        ("18", None),
        ("boxed{18}", None),
        (r"\boxed", None),
        (rf"\boxed{{{'1' * MAX_ANSWER}}}", "1" * MAX_ANSWER),
        (rf"\boxed{{{'1' * (MAX_ANSWER + 1)}}}", None),
    ],
)
def test_what_the_answer_is(response: str, answer: str | None) -> None:
    assert boxed(response) == answer


ALIKE = [
    ("18", "18.0"),
    ("18", "$18$"),
    ("18", r"\$18"),
    ("1234", "1,234"),
    ("1234", r"1{,}234"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"3\frac{1}{2}", "7/2"),
    ("9", "x = 9"),
    (r"50\%", "50"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90"),
    (r"3 \times 10^{5}", "300000"),
    (r"5 \text{ cm}", "5"),
    ("5", r"5\ \mathrm{cm}"),
    ("5", "5 apples"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{(A)}", "A"),
    ("-0", "0"),
    (r"\left( 1, 2 \right)", "(1,2)"),
]
UNLIKE = [
    (r"\frac{1}{3}", "0.333"),
    ("9", "16-7"),
    ("9", "3^2"),
    ("9", r"\sqrt{81}"),
    ("2", "2x"),
    ("2", "2 or 3"),
    ("18", "18 thousand"),
    ("18", "1,8"),
    ("1", "-1"),
    (r"5 \text{ m}", r"5 \text{ cm}"),
    (r"\text{Evelyn}", "nylevE"),
    ("1", r"\frac{1}{0}"),
    ("7", "9" * 61),
]


@pytest.mark.parametrize(("truth", "answer"), ALIKE)
def test_right_without_asking_anybody(truth: str, answer: str) -> None:
    assert same_answer(truth, answer) is True


@pytest.mark.parametrize(("truth", "answer"), UNLIKE)
def test_wrong_without_asking_anybody(truth: str, answer: str) -> None:
    assert same_answer(truth, answer) is False


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_a_fraction_is_itself_in_every_notation_and_no_other(over: int, under: int) -> None:
    sign, size = "-" if over < 0 else "", abs(over)
    for text in (rf"{sign}\frac{{{size}}}{{{under}}}", f"{sign}{size}/{under}", rf"\dfrac{{{over}}}{{{under}}}"):
        assert same_answer(f"{over}/{under}", text) is True
        assert same_answer(f"{over + 1}/{under}", text) is False


@given(st.text(alphabet=r"\{}$[]()0123456789.,/^-+=@ abfrctexo%", max_size=60))
def test_no_text_is_too_strange(text: str) -> None:
    number_of(text), plainly(text), boxed(rf"\boxed{{{text}}}"), same_answer("1/2", text), same_answer(text, "1/2")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    file = tmp_path_factory.mktemp("math") / "rows.jsonl"
    file.write_text(json.dumps({"problem": "1 + 1?", "solution": r"It is $\boxed{2}$."}) + "\n")
    pytest.importorskip("math_verify")
    return open_task("math", data=str(file), options={"seconds": 2.0})


def rewards(task: Task, *pairs: tuple[str, str]) -> list[float]:
    problems = [Problem(str(i), (), truth) for i, (truth, _) in enumerate(pairs)]
    return [score.reward for score in task.score(problems, [rf"so $\boxed{{{answer}}}$" for _, answer in pairs])]


SAME = [
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{3/4}"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
    ("x^2+2x+1", "(x+1)^2"),
    ("1,-2", "-2,1"),
    ("y=2x+1", "y = 1+2x"),
    (r"2\pi", r"2 \pi \text{ cm}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
    (r"2^{10}", "1024"),
    ("3+4i", "4i+3"),
]
OTHER = [
    ("(1,2)", "[1,2)"),
    (r"\pi", "3.14159265"),
    (r"\sqrt2", "1.4142135623730951"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("2x", "2"),
    (r"\sqrt{3}", r"\text{no idea}"),
]


def test_expressions_are_compared_by_what_they_mean(task: Task) -> None:
    assert rewards(task, *SAME) == [1.0] * len(SAME)
    assert rewards(task, *OTHER) == [0.0] * len(OTHER)


HOSTILE = [
    r"9^{9^{9^{9}}}",
    r"\sum_{n=1}^{10^{12}} \frac{1}{n}",
    r"\prod_{n=1}^{10^{9}} n",
    r"10000000!!!!",
    "(" * 200 + "x" + ")" * 200,
    "x^{" * 90 + "2" + "}" * 90,
    r"__import__('os').system('touch pwned')",
    r"\text{__import__('os').system('touch pwned')}",
    "{" * 5 + "}" * 5,
    "\\frac" * 80,
    "\x00\x1b]52;c;eA==\x07",
    "\ud800",
]


def test_no_expression_hangs_runs_or_ends_anything(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    found = rewards(task, *[(r"\sqrt{3}", text) for text in HOSTILE], (r"\sqrt{3}", r"\sqrt{12}/2"))
    assert found == [0.0] * len(HOSTILE) + [1.0]
    assert time.monotonic() - start < 60 and not (tmp_path / "pwned").exists()


def test_rows(tmp_path: Path) -> None:
    rows = [
        {"problem": "a?", "solution": r"so \boxed{\frac12}", "id": "first"},
        {"question": "b?", "answer": 7, "solution": "no box"},
        {"prompt": "c?", "answer": r"\boxed{3}"},
        {"problem": "d?", "answer": r"x \ge 2"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
    opened = open_task("math", data=str(file))
    found = opened.problems("train")
    assert [p.truth for p in found] == [r"\frac12", "7", "3", r"x \ge 2"]
    assert [p.demonstration for p in found] == [r"so \boxed{\frac12}", None, None, None]
    assert found[0].id == "first" and found[0].messages[0]["content"].endswith("put the final answer in \\boxed{}.")
    assert opened.score([found[1]], [found[1].messages[0]["content"] + " 7"])[0].reward == 0.0  # an empty box


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"problem": "a?"}, r"row 1: needs 'answer', or a 'solution' with \\boxed"),
        ({"problem": "a?", "solution": "so 2"}, "row 1: 'solution' holds no answer in"),
        ({"problem": "a?", "answer": r"\boxed{}"}, "row 1: 'answer' holds no answer in"),
        ({"problem": "a?", "answer": True}, "row 1: needs 'answer'"),
        ({"answer": "2"}, "row 1: needs 'problem'"),
        ({"problem": 3, "answer": "2"}, "row 1: needs 'problem'"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: dict[str, object], why: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=why):
        open_task("math", data=str(file)).problems("train")


def test_a_lenient_reading_takes_the_last_number(task: Task) -> None:
    problem = Problem("p", (), "18")
    scores = task.score([problem] * 3, ["it is 18", r"\boxed{17}, no, 18", r"\boxed{18}"])
    assert [(score.reward, score.lenient) for score in scores] == [(0.0, 1.0), (0.0, 0.0), (1.0, 1.0)]


def test_the_package_is_asked_for(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'upslope\[math\]'"):
        task.check_rewards()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_comparison_needs_time(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a time"):
        open_task("math", data=str(tmp_path), options={"seconds": seconds})
