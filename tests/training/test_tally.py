"""What is read off attempts."""

from __future__ import annotations

import pytest

from upslope.tasks.answer import last_number, score_numbers
from upslope.training.tally import of_worlds, solved_by_vote, solved_leniently
from upslope.types import Problem, Rollout, Score


def attempt(reward=0.0, extracted=None, lenient=None, mask=(True, True), unanswered=0):
    score = Score(reward, extracted, lenient=lenient)
    return Rollout("p", 0, (1,), (2,) * len(mask), mask, None, 0, "stop", "", score, unanswered=unanswered)


def voted(*answers):
    """Attempts with these answers, of which 7 is the right one."""
    return [attempt(float(answer == "7"), answer) for answer in answers]


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        (("7", "8", "7"), True),
        (("8", "7", "8"), False),
        (("7", "8"), True),  # one vote each: the first
        (("8", "7"), False),
        ((None, None, "7"), True),  # who has no answer does not vote
        ((None,), False),
        ((), False),
    ],
)
def test_the_vote(answers, right):
    assert solved_by_vote(voted(*answers)) is right


def test_lenient_is_never_below_strict():
    assert solved_leniently(attempt(1.0)) and solved_leniently(attempt(0.0, lenient=1.0))
    assert not solved_leniently(attempt(0.0, lenient=0.0)) and not solved_leniently(attempt(0.0))


def test_what_the_world_wrote():
    """Two and three tokens of two attempts, one question without an answer: 2.5 and 0.5 an attempt."""
    spoken = [attempt(mask=(True, False, False, True)), attempt(mask=(True, False, False, False), unanswered=1)]
    assert of_worlds(spoken) == {"heard": 2.5, "unanswered": 0.5}
    assert of_worlds([attempt()]) == {}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 9 eggs, so $18.", "18"),
        ("#### 1,018.50", "1018.5"),
        ("the answer is -4", "-4"),
        ("10 - 4 is 10-4", "4"),
        ("(3)-4", "4"),
        ("about .5 of it", "0.5"),
        ("<<3*6=18>>18 apples in 2 days: 18", "18"),
        ("no number", None),
        ("7.", "7"),
        ("9" * 60, None),  # longer than any number is read
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


def test_strict_and_lenient_side_by_side():
    toy = Problem("p", (), truth="18")
    texts = ["#### 18", "It is 18", "#### 18 or so\nnot 17", "#### 17"]
    scores = score_numbers([toy] * 4, texts)
    assert [(s.reward, s.lenient) for s in scores] == [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
