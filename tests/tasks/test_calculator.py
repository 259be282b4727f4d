"""The calculator of GSM8K's annotations: exact, small, and silent where it has nothing to say."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
import tiny
from hypothesis import given as every, strategies as st

import upslope as up
from upslope.errors import UserError
from upslope.model.chat_renderer import ChatRenderer
from upslope.tasks.calculator import MAX_DIGITS, MAX_LENGTH, Calculator, filled, value_of
from upslope.training.shown import shown_tokens


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("3*6", "18"),
        ("48/2", "24"),
        ("80/100*10", "8"),  # (80 / 100) 10, from left to right
        ("10-2-3", "5"),
        ("2+3*4", "14"),
        ("(2+3)*4", "20"),
        (".5*3", "1.5"),
        ("1/8", "0.125"),
        ("0.1+0.2", "0.3"),  # binary floating point says 0.30000000000000004
        ("-3+5", "2"),
        ("2*-3", "-6"),
        ("- (1 - 3)", "2"),
        ("007*1", "7"),
        ("5-5", "0"),
        ("1.50+1.50", "3"),
        ("100*10", "1000"),
        ("99999999999999999999+0", "99999999999999999999"),
        (".00000000000000000001*1", "0.00000000000000000001"),  # twenty places
    ],
)
def test_exact_values(source, value):
    assert value_of(source) == value


@pytest.mark.parametrize(
    "source",
    [
        *("10/3", "1/0", "0/0", "", " ", "3*", "*3", "(3", "3)", "()", "2**3", "7//2", "2^3", "3 4", "1.2.3", "1."),
        *("1,000+1", "x+1", "3*6=18", "50%", "$3+$4", "1e3", "٣+1", "__import__('os')"),
        *("9" * 10 + "*" + "9" * 11 + "*9", "(" * 60 + "1", "1+" * MAX_LENGTH + "1", "1" + "/2" * 30),
    ],
)
def test_what_has_no_value(source):
    assert value_of(source) is None


@every(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
        max_leaves=6,
    )
)
def test_sums_of_whole_numbers_are_pythons(source):
    expected = str(eval(source))  # the grammar's texts alone come here
    too_long = len(source) > MAX_LENGTH or len(expected.lstrip("-")) > MAX_DIGITS
    assert value_of(source) == (None if too_long else expected)


@every(st.integers(-999, 999), st.integers(1, 400))
def test_a_quotient_is_exact_or_left_alone(numerator, denominator):
    found = value_of(f"{numerator}/{denominator}")
    exact = Fraction(numerator, denominator)
    rest = exact.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    assert (found is None) == (rest != 1)
    if found is not None:
        assert Fraction(Decimal(found)) == exact
        assert found == f"{Decimal(found):f}" and not (("." in found) and found.endswith("0"))


@every(st.text("<>=0123456789+-*/(). x\n", max_size=40))
def test_any_text_gets_an_answer(text):
    reply = Calculator().reply(text)
    assert reply is None or reply == "" or reply.endswith(">>")


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("so <<3*6=", "18>>"),
        ("<<1=1>> and <<3*6=", "18>>"),
        ("so 3*6 =", None),  # nobody asked
        ("<<3*6=18>>x =", None),  # closed already
        ("<<3*6\n=", None),  # an annotation is of one line
        ("<<10/3=", ""),
        ("<<x=", ""),
        ("<<3=4=", ""),
        ("<<3*6= ", ""),  # written past it
        ("<<3*6", None),
        ("", None),
    ],
)
def test_what_it_replies(text, reply):
    assert Calculator().reply(text) == reply


SOLUTION = "He has 3*6 = <<3*6=18>>18.\nHalf is <<18/2=9.0>>9, a seventh <<9/7=1.3>>1.3.\n#### 9"


def test_a_demonstration_as_the_calculator_writes_it():
    text, spans = filled(SOLUTION)
    assert text == "He has 3*6 = <<3*6=18>>18.\nHalf is <<18/2=9>>9, a seventh <<9/7=1.3>>1.3.\n#### 9"
    assert [text[begin:end] for begin, end in spans] == ["18>>", "9>>"]
    assert filled("no annotation") == ("no annotation", ())


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": f"{name}?", "answer": SOLUTION}) + "\n")
    return str(tmp_path)


def test_the_task_shows_and_speaks_with_it(folder):
    task = up.tasks.gsm8k(folder, calculator=True)
    (shown,) = task.demonstrations()
    assert (shown.demonstration, shown.replies) == filled(SOLUTION)
    assert task.episode(shown).reply("<<2+2=") == "4>>"
    alone = up.tasks.gsm8k(folder)
    assert alone.episode(shown) is None and alone.demonstrations()[0].replies == ()
    assert "<<" not in alone.demonstrations()[0].demonstration
    with pytest.raises(UserError, match="calculator=true keeps the annotations already"):
        up.tasks.gsm8k(folder, calculator=True, keep_annotations=True)


def test_imitation_leaves_out_what_the_calculator_will_write():
    renderer = ChatRenderer.of(tiny.TOKENIZER)
    text, spans = "3 + 4 = 7 . 7 .", ((8, 9),)
    ids, mask = shown_tokens(renderer, text, spans)
    assert renderer.text(ids).replace(" ", "") == text.replace(" ", "")
    assert [renderer.text((i,)).strip() for i, m in zip(ids, mask, strict=True) if not m] == ["7"]
    assert mask[-1] and ids[-1] == renderer.end_ids[0]
    whole, all_of_it = shown_tokens(renderer, text)
    assert whole == ids and all(all_of_it) and len(all_of_it) == len(whole)
    assert shown_tokens(renderer, "7 3", ((0, 1),))[1] == (False, True, True)
    assert shown_tokens(renderer, "3 7", ((2, 3),))[1] == (True, False, True)
