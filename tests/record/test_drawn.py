"""Attempts that wait to be learnt from, written and read back: the same to the last bit."""

import math

import pytest

from upslope.forks import Fork
from upslope.record.drawn import DrawnStep, any_drawn, read_drawn, write_drawn
from upslope.types import Group, Problem, Rollout, Score

PROBLEMS = {name: Problem(name, ({"role": "user", "content": name},), truth="1") for name in ("a", "b")}
FULL = Score(
    1 / 3,
    extracted="18",
    lenient=0.1 + 0.2,
    parts={"form": 0.7, "truth": None},
    steps=((3, 0.25), (9, -1e-17)),
    by_token=(0.0, 0.25, 1e-300),
    by_turn=(0.5, 1 / 3),
    timed_out=False,
)
TALK = {
    "turns": (2,),
    "forks": (Fork(2, (5, 6, 9)),),
    "calls": 3,
    "wrong_calls": 1,
    "chat": ({"role": "assistant", "content": "né"}, {"role": "tool", "name": "add", "content": "4"}),
}


def rollout(name, sample, *, score=FULL, **more):
    logp = (math.log(1 / 3), -1e-17, 0.0)
    given = {"logp": logp, "version": 7, "ended": "stop", "text": "né\n", "unanswered": 2}
    return Rollout(name, sample, (5, 6), (9, 8, 2), (True, False, True), score=score, **given | more)


def step(number):
    first = Group(
        PROBLEMS["a"], (rollout("a", 0), rollout("a", 1, versions=(6, 6, 7), ended="turns", **TALK)), weight=1 / 7
    )
    second = Group(PROBLEMS["b"], (rollout("b", 0, score=Score(0.0), ended="length"), rollout("b", 1, logp=None)))
    fewer = Group(PROBLEMS["b"], (second.rollouts[1],))
    elsewhere = Group(PROBLEMS["a"], (rollout("a", 5, version=4),))  # kept, and none of the attempted
    told, state = {"num_known": 2.0, "learnability": 1 / 3}, {"known": {"a": [1.5, 0.1 + 0.2, 3]}}
    return DrawnStep(number, (first, second), (first, fewer, elsewhere), told, state)


def test_what_is_read_is_what_was_written(tmp_path):
    assert not any_drawn(tmp_path)
    write_drawn(tmp_path, [step(11), step(12)])
    assert any_drawn(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ahead"]  # nothing that a model loader reads
    assert read_drawn(tmp_path, PROBLEMS) == [step(11), step(12)]


def test_an_attempt_of_two_groups_is_one_object_again(tmp_path):
    write_drawn(tmp_path, [step(11)])
    (found,) = read_drawn(tmp_path, PROBLEMS)
    assert found.kept[1].rollouts[0] is found.attempted[1].rollouts[1]


def test_the_oldest_token_counts():
    assert step(11).oldest == 4
    assert DrawnStep(1, (), (), {}, {}).oldest is None


def test_nothing_drawn_leaves_nothing(tmp_path):
    write_drawn(tmp_path, [])
    assert not any_drawn(tmp_path) and not list(tmp_path.iterdir())


def test_a_problem_that_is_no_more_is_named(tmp_path):
    write_drawn(tmp_path, [step(11)])
    with pytest.raises(KeyError, match="b"):
        read_drawn(tmp_path, {"a": PROBLEMS["a"]})
