"""Task ``math``: what an answer is, when it is right; and no expression hangs, runs as code, or ends the run."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from upslope.errors import UserError
from upslope.tasks.base import Task
from upslope.tasks.boxed import MAX_ANSWER, boxed, same_answer
from upslope.tasks.boxed_notation import plainly
from upslope.tasks.boxed_number import number_of
from upslope.tasks.boxed_truth import unusable
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
        (r"\boxed 5", "5"),
        (r"so \boxed5.", "5"),
        (r"\boxed x", "x"),
        (r"\boxed\frac12", r"\frac12"),
        (r"\boxed\frac{1}2 3", r"\frac{1}2"),
        (r"\boxed \dfrac {1}{2}", r"\dfrac {1}{2}"),
        (r"\boxed\pi r", r"\pi"),
        (r"\boxed\text{A} {b", r"\text{A}"),
        (r"\boxed 12", None),
        (r"\boxed 1.5", None),
        (r"\boxed{2} is in the \boxed command", "2"),
        (r"\boxed{$}", None),
        (r"\boxed{.}", None),
        (r"\boxed{\text{ }}", None),
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
    ("1 1/2", "1.5"),
    ("2 1/3", r"2\frac13"),
    ("1 1/2", r"1\ \frac 1 2"),
    ("3.5", "3 1/2 cups"),
    ("1234", r"1\,234"),
    ("1234567.5", "1 234 567.5"),
    ("1234", r"1,\! 234"),
    ("0.00001", r"10^{-5}"),
    ("300000", "3e5"),
    ("1.5e-3", "0.0015"),
    ("10^5", "100000"),
    (r"5\text{ cm}^{2}", r"5\text{ cm}^2"),
    ("5", "{5}"),
    ("-5", "{-5}"),
    ("5", "(5)"),
    ("-0.5", r"\left(-\frac12\right)"),
    ("0.5", r"{1\over 2}"),
    ("0.5", r"\frac {1} 2"),
    ("5", r"5 \quad"),
    ("5", r"\bf 5"),
    ("5", r"{\bf 5}"),
    ("5", r"\mathbf{5}"),
    ("5", r"\text{5}"),
    (r"\text{5 cm}", r"5.0\text{ cm}"),
    (r"90^\circ", "90\u00b0"),
    *[("-5", f"{minus}5") for minus in "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"],
    ("5", "x_1=5"),
    ("5", r"x_{12} = 5"),
    ("5", r"\theta = 5"),
    ("5", "f(2)=5"),
    (r"\frac13", r"0.\overline{3}"),
    (r"\frac16", r"0.1\overline{6}"),
    (r"\frac13", r"0.\dot{3}"),
    (r"\frac17", r"0.\dot{1}4285\dot{7}"),
    (r"-\frac{100}{3}", r"-33.\overline{3}"),
    (r"\varnothing", r"\emptyset"),
    (r"5 \text{ m/s}", "5 m/s"),
    ("no solution", r"\text{No solution}"),
    ("Evelyn", "evelyn"),
    ("(1, 2)", r"(1,\,2)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
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
    ("1 1/2", "5.5"),
    ("2 1/3", "7"),
    ("25", "2 5"),
    ("25", r"2\ 5"),
    ("25", r"2\,5"),
    ("25", "2$5"),
    ("25", r"2\displaystyle5"),
    ("25", r"2\text{ }5"),
    ("1/25", "1/2 5"),
    ("1234", "1, 234"),
    ("1234", "1 23 4"),
    ("1234567", "1 234,567"),
    ("1234", "(1,2,3,4)"),
    ("5", "(5}"),
    ("5", "(5"),
    ("0.5", r"\frac 11 2"),
    ("1/3", r"0.\overline{33}4"),
    ("x=5", "y=5"),
    ("5", "5=5"),
    ("1,234", "1, 234"),
    ("5", "x=y=5"),
    ("5", "5 is wrong"),
    ("5", "5 apples or so"),
    ("5", r"5\text{ is wrong}"),
    ("101_2", "101"),
    ("101_2", "101_3"),
    ("Evelyn", "nylevE"),
    ("5", "$"),
    (r"\sqrt{25}", "."),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", "(1,2)"),
    ("1,2", "(1,2)"),
    ("1,2", "[1,2]"),
    (r"2\sqrt3", r"77 = 2\sqrt{3}"),
    (r"2\sqrt3", r"77=78=2\sqrt3"),
    (r"2\sqrt3", r"x=78=2\sqrt3"),
    (r"2\sqrt3", r"2\sqrt3 \approx 77"),
    (r"2\sqrt3", "2\\sqrt3 \u2248 77"),
    (r"2\sqrt3", r"2\sqrt{3} \text{ is wrong}"),
    (r"2\sqrt3", r"2\sqrt3\text{ or 77}"),
    (r"2\sqrt3", "2\\sqrt3 or 77"),
    (r"2\sqrt3", r"2\sqrt3 I think"),
    (r"2\sqrt3", r"a \in 2\sqrt{3}"),
    (r"2\sqrt3", r"2\sqrt3'"),
    (r"2\sqrt3", r"2\sqrt3; 77"),
    (r"2\sqrt3", r"2\sqrt3 } {77"),
    (r"2\sqrt3 \text{ apples}", r"2\sqrt3 \text{ hens}"),
    (r"3\text{ hours } 20\text{ minutes}", "3"),
    (r"7 \text{ or } 8", "7"),
    (r"7 \text{ or } 8", "7, 8"),
    (r"2\sqrt3", r"2\sqrt3 \\ 77"),
    (r"2\sqrt3 \text{ m}", r"2\sqrt3 \text{ cm}"),
    ("2x+3", "x=2x+3"),
    ("y=2x+3", "z=2x+3"),
    (r"x \ge 2", r"x \approx 2"),
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


LONG = (
    "{\\over",
    "\\over",
    "1,",
    "1 ",
    "{",
    "}",
    "{1",
    "\\frac",
    "\\frac1",
    "1 1/2 ",
    "\\text{",
    "\\text{a}",
    "@a ",
    "x=",
    "f(",
    "(1,",
    " ",
)


@pytest.mark.parametrize("part", LONG)
def test_no_answer_takes_long_to_read(part: str) -> None:
    text = (part * MAX_ANSWER)[:MAX_ANSWER]
    start = time.monotonic()
    for truth, answer in ((r"\sqrt3", text), (r"\sqrt3", text + "!"), (text, r"\sqrt3"), ("1/2", "1" + text)):
        same_answer(truth, answer), unusable(truth), boxed(rf"\boxed{{{answer}}}")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "truth",
    ["5", "5 square feet", "2\\pi square feet", "no solution", r"\frac{\sqrt[3]\pi}2", r"x=1 \text{ or } x=2", "ab"],
)
def test_a_truth_that_can_be_met(truth: str) -> None:
    assert unusable(truth) is None and same_answer(truth, truth) is True


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
    ("2x+3", "f(x) = 3+2x"),
    (r"2\pi r", r"\pi \cdot 2 r"),
    (r"\sin x", r"\sin (x)"),
    (r"2\pi", r"A = 2 \pi \text{ square cm}"),
    (r"2\pi", r"2 \pi cm"),
    (r"x \ge 2", r"2 \le x"),
    (r"\{1,2\}", "2,1"),
    ("1,2", r"\{2, 1\}"),
    ("(1, 2x)", "(1.0, x+x)"),
    (r"[1, \sqrt{12}]", r"[\frac22, 2\sqrt3]"),
    ("2^{10}", "1024.0"),
    (r"3 \cdot 2^{-1}", "1 1/2"),
    (r"3 \cdot 2^{-2}", "7.5e-1"),
    ("x/2", "0.5x"),
    (r"\log_2 3", r"\frac{\log 3}{\log 2}"),
    (r"2\pi \text{ apples}", r"\pi + \pi"),
    (r"2\pi \text{ apples}", r"(1+1)\pi \text{ apples}"),
    (r"x=1 \text{ or } x=2", r"x = 1 \text{ or } x=\frac{4}{2}"),
    (r"\sqrt2,-\sqrt2", r"x=\sqrt2, x=-\sqrt{2}"),
    ("abc+d", "d+bca"),
    ("2,-2", r"\pm 2"),
    (r"\pm 2", "2,-2"),
    (r"\emptyset", r"\varnothing"),
    ("2 xy", "xy+xy"),
]
OTHER = [
    ("(1,2)", "[1,2)"),
    (r"\pi", "3.14159265"),
    (r"\sqrt2", "1.4142135623730951"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    ("2x", "2"),
    (r"\sqrt{3}", r"\text{no idea}"),
    (r"\pi", "3.14159265358979323846"),
    (r"\pi", "3.14159265358979323846264338327950288419716939937510"),
    (r"\pi", r"x = 3.14159265358979323846 \text{ cm}"),
    (r"(0, \pi)", "(0, 3.14159265358979323846)"),
    ("(2,1)", "(3,1)"),
    ("(1,2)", "(1,2,2)"),
    (r"(9, \pi)", r"(3^2, \pi)"),
    ("2 xy", "2"),
    ("(1,2)", "(2,1)"),
    (r"\sqrt{3}", r"\sqrt3, \sqrt3"),
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


@pytest.mark.parametrize("number", [0.00001, 1e20, 1e22, 1.5e16, -2.5e-7, 7, 10**40])
def test_a_number_of_json_can_be_answered(tmp_path: Path, number: float) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"problem": "a?", "answer": number, "split": "train"}) + "\n")
    truth = open_task("math", data=str(file)).problems("train")[0].truth
    known = number_of(truth)
    assert known is not None and known.value == Fraction(str(number)) and "e" not in truth


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"problem": "a?"}, r"row 1: needs 'answer', or a 'solution' with \\boxed"),
        ({"problem": "a?", "solution": "so 2"}, "row 1: 'solution' holds no answer in"),
        ({"problem": "a?", "answer": r"\boxed{}"}, "row 1: 'answer' holds no answer in"),
        ({"problem": "a?", "answer": True}, "row 1: needs 'answer'"),
        ({"answer": "2"}, "row 1: needs 'problem'"),
        ({"problem": 3, "answer": "2"}, "row 1: needs 'problem'"),
        ({"problem": "a?", "answer": 1e70}, "row 1: 'answer' is no finite number below 1e60"),
        ({"problem": "a?", "answer": r"\frac"}, "row 1: 'answer' is no answer .* nothing to work on"),
        ({"problem": "a?", "answer": r"3+\frac{1} + 2"}, "row 1: .* nothing to work on"),
        ({"problem": "a?", "answer": "{" * 50_000 + "}" * 50_000}, "row 1: .* longer than any answer"),
        ({"problem": "a?", "answer": "+"}, "row 1: .* neither a number nor a letter"),
        ({"problem": "a?", "answer": "{"}, "row 1: .* braces are not balanced"),
        ({"problem": "a?", "answer": "}1{"}, "row 1: .* braces are not balanced"),
        ({"problem": "a?", "answer": "#### 5"}, "row 1: .* GSM8K's mark"),
        ({"problem": "a?", "answer": "The answer is 5."}, "row 1: .* it is a sentence"),
        ({"problem": "a?", "answer": "$"}, "row 1: .* it is empty"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: dict[str, object], why: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=why):
        open_task("math", data=str(file)).problems("train")


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), float("-inf"), 10**5000], ids=["nan", "inf", "-inf", "long"]
)
def test_a_number_that_is_none(task: Task, number: float) -> None:
    with pytest.raises(UserError, match="rows row 1: 'answer' is no finite number below 1e60"):
        task.build_to_score({"answer": number}, "rows row 1")


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
