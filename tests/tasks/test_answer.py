"""The answer grammar, rule by rule (the numbers are those of the module's docstring)."""

from __future__ import annotations

import re
import time
from decimal import Decimal

import pytest
from hypothesis import given, strategies as st

from upslope.tasks.answer import MAX_DIGITS, MAX_LINE, extract, same_number

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        # 1, 2: which marker
        ("16 - 7 = 9\n#### 18", "18"),
        ("####18", "18"),
        ("##### 18", "18"),
        ("#### 18\nwait, no\n#### 20", "20"),
        ("#### 18 #### 20", "20"),
        ("the answer is 18", None),
        ("### 18", None),
        ("", None),
        ("####", None),
        ("#### 18\n#### Explanation", None),
        ("#### 18\n####", None),
        ("#### <number>", None),
        # 3: which line
        ("####\n18", "18"),
        ("#### \r\n\n  18 \r\nThanks for asking about the 5 apples!", "18"),
        ("#### 18\n20", "18"),
        ("#### so 18", None),
        ("#### Answer: 18", None),
        ("#### 18" + " " * 500 + "\n", "18"),
        ("#### 18" + " " * MAX_LINE + "apples", None),
        # 4: numbers
        ("#### 18.50", "18.5"),
        ("#### 18.00", "18"),
        ("#### .5", "0.5"),
        ("#### 007", "7"),
        ("#### 0", "0"),
        ("#### 0.0", "0"),
        ("#### 1/2", None),
        ("#### 1e5", None),
        ("#### 1E5", None),
        ("#### 1e+5", None),
        ("#### inf", None),
        ("#### -Infinity", None),
        ("#### nan", None),
        ("#### 1_000", None),
        ("#### 0x10", None),
        ("#### 1.2.3", None),
        ("#### .", None),
        ("#### $", None),
        ("#### １８", None),  # full-width digits
        ("#### ١٨", None),  # Arabic-Indic digits
        ("#### 1८", None),  # one ASCII digit, one Devanagari
        ("#### 18²", None),
        ("#### 18 ½", None),
        # 5: commas
        ("#### 1,234,567", "1234567"),
        ("#### 1,234.50", "1234.5"),
        ("#### 1,23", None),
        ("#### 12,34,567", None),
        ("#### 1234,567", None),
        ("#### 1,2345", None),
        ("#### 0,123", None),
        ("#### ,123", None),
        ("#### 1,,234", None),
        ("#### 1, 234", None),
        # 6: signs
        ("#### -18", "-18"),
        ("#### \u221218", "-18"),
        ("#### +18", "18"),
        ("#### -$18", "-18"),
        ("#### $-18", "-18"),
        ("#### $\u221218.0", "-18"),
        ("#### -0", "0"),
        ("#### -0.00", "0"),
        ("#### -0.5", "-0.5"),
        ("#### - 18", None),
        ("#### --18", None),
        ("#### -$-18", None),
        ("#### \u201318", None),  # en dash
        # 7: dollar and percent
        ("#### $18", "18"),
        ("#### $18$", "18"),
        ("#### 18$", "18"),
        ("#### 50%", "50"),
        ("#### 50 %.", "50"),
        ("#### 50%%", None),
        ("#### $$18", None),
        # 8: what may follow
        ("#### 18.", "18"),
        ("#### 18.5.", "18.5"),
        ("#### 18 apples", "18"),
        ("#### 18 dollars per hour.", "18"),
        ("#### 18% off", "18"),
        ("#### 18..", None),
        ("#### 18!", None),
        ("#### 18?", None),
        ("#### 18 + 2", None),
        ("#### 18 or 20", None),
        ("#### 18 or twenty", None),
        ("#### 18 Or Twenty", None),
        ("#### 18 thousand", None),
        ("#### 18 Thousands", None),
        ("#### 18 k", None),
        ("#### 18 grand", None),
        ("#### 2 thirds", None),
        ("#### 18 no wait", None),
        ("#### 18 if not", None),
        ("#### 18 tens", None),
        ("#### 7 dozens", "7"),  # of eggs
        ("#### 4 five dollar bills", "4"),
        ("#### 18 for ten days", "18"),
        ("#### 10 k run", "10"),
        ("#### 3 double scoops", "3"),
        ("#### 18 divided by three", None),
        ("#### 18 squared", None),
        ("#### 18 less two", None),
        ("#### 18 but maybe more", None),
        ("#### 18 instead of more", None),
        ("#### 18 quarters", "18"),  # coins
        ("#### 18 square feet", "18"),
        ("#### 18 more than Bob", "18"),
        ("#### 18-20", None),
        ("#### 9 = 9", None),
        ("#### 18k", None),
        ("#### 18 a b c d", "18"),
        ("#### 18 a b c d e", None),
        ("#### **18**", None),
    ],
)
def test_rules(response: str, answer: str | None) -> None:
    assert extract(response) == answer


def test_the_whole_text_is_searched_not_only_its_tail() -> None:
    assert extract("#### 18\n" + "thank you " * 10_000) == "18"


def test_a_number_may_have_so_many_digits_and_no_more() -> None:
    assert extract("#### " + "9" * MAX_DIGITS) == "9" * MAX_DIGITS
    assert extract("#### " + "9" * (MAX_DIGITS + 1)) is None
    assert extract("#### 0." + "1" * MAX_DIGITS) is None  # the zero counts: MAX_DIGITS + 1


@pytest.mark.parametrize("piece", ["9", "1,234", ",", "#", "#### ", "$", "-", ".", " ", "\n", "#### 1 a ", "a "])
def test_long_responses_are_read_in_linear_time(piece: str) -> None:
    # A million characters take milliseconds; one quadratic step would take minutes.
    started = time.perf_counter()
    extract("#### " + piece * (1_000_000 // len(piece)) + "!")
    extract("#### 1" + piece * (1_000_000 // len(piece)) + "!")
    assert time.perf_counter() - started < 5.0


def test_same_number_is_exact() -> None:
    assert same_number("18", "18.00")
    assert same_number("$1,018", " 1018. ")
    assert not same_number("18", "-18")
    assert not same_number("0.3", "0.30000000000000004")
    # 29 digits, one more than the default decimal context would keep
    assert not same_number("1" + "0" * 27 + "1", "1" + "0" * 27 + "2")


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "1e1"])
def test_what_is_no_number_equals_nothing_not_even_itself(text: str) -> None:
    assert not same_number(text, text)
    assert not same_number("10", text)


@given(NUMBERS)
def test_every_decimal_is_read_exactly(number: Decimal) -> None:
    for text in (f"{number}", f"{number:,}", f"{number}".replace("-", "\u2212")):
        answer = extract(f"steps\n#### {text}")
        assert answer is not None
        assert Decimal(answer) == number


@given(NUMBERS)
def test_the_canonical_form_is_a_fixed_point(number: Decimal) -> None:
    answer = extract(f"#### {number}")
    assert answer is not None
    assert extract(f"#### {answer}") == answer
    assert same_number(answer, str(number))


@given(NUMBERS, NUMBERS)
def test_equal_text_and_equal_number_are_one(a: Decimal, b: Decimal) -> None:
    assert same_number(str(a), str(b)) == (a == b) == (extract(f"#### {a}") == extract(f"#### {b}"))


@given(st.text())
def test_any_text_gives_a_canonical_number_or_none(text: str) -> None:
    for response in (text, "#### " + text, "#### 1" + text):
        answer = extract(response)
        assert answer is None or re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", answer)
        assert answer != "-0"


@given(st.text(), NUMBERS)
def test_what_stands_before_the_marker_does_not_matter(before: str, number: Decimal) -> None:
    assert extract(f"{before}#### {number}") == extract(f"#### {number}")


@given(st.text().filter(lambda text: "####" not in text))
def test_no_marker_no_answer(text: str) -> None:
    assert extract(text) is None


@given(st.integers(0, 999), st.sampled_from(["+", "-", "*", "/", "=", "or", "and", "to", ",", "~", ";", "|"]))
def test_a_second_number_is_refused(number: int, joint: str) -> None:
    assert extract(f"#### 18 {joint} {number}") is None
    assert extract(f"#### 18 {joint} {number} apples") is None
