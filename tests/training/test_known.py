"""Problems drawn by what is known of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given as every, strategies as st

from upslope.algo.learnable import Learnable, chances, learnability, systematic
from upslope.errors import UserError
from upslope.training.known import KnownProblems
from upslope.types import Group, Problem, Rollout, Score

PROBLEMS = [Problem(f"p/{i}", ()) for i in range(12)]
EVERY = Learnable(fresh=0.0, floor=0.01, decay=1.0)


def group(problem, right, wrong):
    rollouts = tuple(
        Rollout(problem.id, i, (1,), (0,), (True,), None, 0, "stop", "", Score(float(i < right)))
        for i in range(right + wrong)
    )
    return Group(problem, rollouts)


def known(slot=EVERY, problems=PROBLEMS, **records):
    subject = KnownProblems(problems, slot, seed=3)
    subject.learn(0, [group(problems[int(name[1:])], *record) for name, record in records.items()])
    return subject


def names(problems):
    return {p.id for p in problems}


@every(st.lists(st.floats(0, 0.25), min_size=1, max_size=30), st.integers(1, 30), st.floats(0.01, 1))
def test_chances_are_chances_and_sum_to_the_number(estimates, num, floor):
    num = min(num, len(estimates))
    found = chances(estimates, num, floor)
    assert all(0 < c <= 1 for c in found)
    assert sum(found) == pytest.approx(num, abs=1e-9)
    order = sorted(range(len(estimates)), key=lambda i: estimates[i])
    assert all(found[a] <= found[b] + 1e-12 for a, b in itertools.pairwise(order)), "more is never less likely"


@every(st.lists(st.floats(0.01, 0.25), min_size=2, max_size=30), st.integers(1, 29), st.floats(0, 1, exclude_max=True))
def test_as_many_are_drawn_as_were_wanted_and_none_twice(estimates, num, start):
    num = min(num, len(estimates))
    drawn = systematic(chances(estimates, num, 0.1), start)
    assert len(drawn) == num == len(set(drawn))


def test_those_that_differ_are_drawn_and_the_hopeless_and_the_mastered_hardly_ever():
    """Nine attempts each: e = 6*5/(11*12) = 0.227 at 5 of 9, 1*10/(11*12) = 0.0758 at 0 and at 9 of 9."""
    subject = known(EVERY, PROBLEMS[:4], p0=(5, 4), p1=(4, 5), p2=(0, 9), p3=(9, 0))
    assert [round(subject.estimate(p, 1), 4) for p in PROBLEMS[:4]] == [0.2273, 0.2273, 0.0758, 0.0758]
    drawn = [p.id for step in range(400) for p in subject.take(step, 1)]
    shares = {p.id: drawn.count(p.id) / 400 for p in PROBLEMS[:4]}
    assert shares["p/0"] == pytest.approx(0.374, abs=0.08) and shares["p/1"] == pytest.approx(0.374, abs=0.08)
    assert 0.06 < shares["p/2"] < 0.2 and 0.06 < shares["p/3"] < 0.2


def test_a_share_of_a_step_is_new_problems_while_there_are_any():
    subject = known(replace(EVERY, fresh=0.5), p0=(1, 1), p1=(1, 1), p2=(1, 1), p3=(1, 1))
    tried = names(PROBLEMS[:4])
    for step in range(1, 20):
        drawn = names(subject.take(step, 4))
        assert len(drawn) == 4 and len(drawn & tried) == 2
    nobody = KnownProblems(PROBLEMS, replace(EVERY, fresh=0.5), seed=3)
    assert len(names(nobody.take(0, 4))) == 4, "at first all are new"
    few = known(replace(EVERY, fresh=0.5), p0=(1, 1))
    assert len(names(few.take(1, 4))) == 4, "and where too few are known, the others are"
    everyone = known(replace(EVERY, fresh=1.0), **{f"p{i}": (1, 1) for i in range(11)})
    assert "p/11" in names(everyone.take(1, 4)), "the last new one"


def test_without_a_share_of_their_own_new_problems_stand_among_the_others():
    """e = 1/6 for a problem never tried, and 1*10/(11*12) = 0.0758 for one that failed nine times."""
    subject = known(EVERY, p0=(0, 9), p1=(0, 9), p2=(0, 9), p3=(0, 9))
    assert subject.estimate(PROBLEMS[11], 1) == pytest.approx(1 / 6)
    tried = set()
    for step in range(1, 30):
        drawn = subject.take(step, 4)
        subject.learn(step, [group(p, 0, 2) for p in drawn])
        tried |= names(drawn)
    assert tried == names(PROBLEMS), "nobody is left out for good"


def test_of_thousands_the_others_still_follow_their_estimates():
    """u^(1/w) of three thousand weights is 0 for all but some hundreds; its logarithm is not."""
    many = [Problem(f"m/{i}", ()) for i in range(3000)]
    subject = KnownProblems(many, EVERY, seed=3)
    subject.learn(0, [group(p, 1, 1) for p in many[:1500]])
    order = subject.others(1, [])
    # e = 0.2 for one right of two, 1/6 for one never tried: 54.5 % of any stretch are tried ones.
    for begin in range(0, 2000, 500):
        share = sum(int(p.id[2:]) < 1500 for p in order[begin : begin + 500]) / 500
        assert 0.45 < share < 0.65


def test_a_record_fades_and_the_mastered_comes_back():
    """16 right attempts, 34 steps ago, with decay 0.98: they count 16 * 0.98^34 = 8.05."""
    subject = known(replace(EVERY, decay=0.98), p0=(16, 0))
    assert subject.estimate(PROBLEMS[0], 0) == learnability(16, 0)
    assert subject.estimate(PROBLEMS[0], 34) == pytest.approx(learnability(8.05, 0), abs=1e-4)
    assert subject.estimate(PROBLEMS[0], 2000) == pytest.approx(1 / 6)


def test_further_attempts_are_added_to_what_is_left_of_the_record():
    subject = known(replace(EVERY, decay=0.5), p0=(4, 4))
    subject.learn(1, [group(PROBLEMS[0], 1, 0)])
    assert subject.state()["p/0"] == [3.0, 2.0, 1]


def test_it_goes_on_from_its_state_as_if_it_had_not_stopped():
    first = known(p0=(3, 5), p1=(1, 7), p5=(8, 0))
    again = KnownProblems(PROBLEMS, EVERY, seed=3)
    again.load(json.loads(json.dumps(first.state())))
    for step in range(1, 6):
        assert [p.id for p in again.take(step, 3)] == [p.id for p in first.take(step, 3)]
        further = again.others(step, PROBLEMS[:2])
        assert names(further) == names(PROBLEMS[2:])
        assert [p.id for p in further] == [p.id for p in first.others(step, PROBLEMS[:2])]
    assert again.state() == first.state()


def test_a_measured_pass_rate_is_where_it_begins():
    measured = [replace(p, columns={"num_right": i, "num_samples": 8}) for i, p in enumerate(PROBLEMS[:3])]
    subject = KnownProblems(measured, EVERY, seed=0)
    assert subject.state() == {"p/0": [0.0, 8.0, 0], "p/1": [1.0, 7.0, 0], "p/2": [2.0, 6.0, 0]}
    wrong = [replace(PROBLEMS[0], columns={"num_right": 9, "num_samples": 8})]
    with pytest.raises(UserError, match="num_right = 9 of num_samples = 8"):
        KnownProblems(wrong, EVERY, seed=0)
    untried = KnownProblems([replace(PROBLEMS[0], columns={"num_right": 0, "num_samples": 0})], EVERY, seed=0)
    assert untried.state() == {}
    for count in (float("nan"), float("inf"), 0.5, "1", True):
        with pytest.raises(UserError, match="is no count of attempts"):
            KnownProblems([replace(PROBLEMS[0], columns={"num_right": count, "num_samples": 8})], EVERY, seed=0)


def test_measured_problems_that_a_checkpoint_does_not_know_keep_their_counts():
    measured = [replace(p, columns={"num_right": 2, "num_samples": 8}) for p in PROBLEMS[:2]]
    subject = KnownProblems(measured, EVERY, seed=0)
    subject.load({"p/0": [5.0, 3.0, 4], "gone": [1.0, 1.0, 1]})
    assert subject.state() == {"p/0": [5.0, 3.0, 4], "p/1": [2.0, 6.0, 0]}


def test_whom_to_turn_to_next_are_the_promising_ones():
    """By keys u^(1/w), the first of two with estimates 0.227 and 0.076 is the likelier with chance
    0.9 * 0.227 / 0.303 + 0.1 / 2 = 0.72."""
    subject = known(EVERY, PROBLEMS[:2], p0=(5, 4), p1=(0, 9))
    first = [subject.others(step, [])[0].id for step in range(400)]
    assert first.count("p/0") / 400 == pytest.approx(0.72, abs=0.06)


def test_weights_undo_the_chances():
    subject = known(replace(EVERY, fresh=0.5, weighted=True), **{f"p{i}": (i % 3, 2) for i in range(8)})
    for step in range(1, 10):
        drawn = subject.take(step, 4)
        assert subject.weight_of.keys() == names(drawn)
        new = [subject.weight_of[p.id] for p in drawn if int(p.id[2:]) >= 8]
        assert new == pytest.approx([2 / 3] * 2)  # two of four new ones: 4 / (12 * 0.5)
        # And of every problem, chance times weight is the same: what a step expects is that of an even draw.
        problems = subject.in_order(step)
        chances = subject.chances(problems, step, 4)
        for problem, chance in zip(problems, chances, strict=True):
            assert chance * subject.weight(chance, 4) == pytest.approx(4 / 12)
            if problem.id in subject.weight_of:
                assert subject.weight_of[problem.id] == pytest.approx(subject.weight(chance, 4))


def test_too_few_problems_is_said():
    with pytest.raises(UserError, match="takes 13 training problems, and the task has 12"):
        known().take(0, 13)


@pytest.mark.parametrize(
    "wrong",
    [{"fresh": 1.5}, {"floor": 0.0}, {"decay": 0.0}, {"decay": 1.1}, {"weighted": True, "fresh": 1.0},
     {"weighted": True, "refill": 3.0}, {"group_size": 0}],
)  # fmt: skip
def test_settings_without_sense_are_refused(wrong):
    with pytest.raises(ValueError):
        Learnable(**wrong)
