"""A user's world and spans: every fault is one line that names the place."""

from __future__ import annotations

import pytest

from upslope.errors import UserError
from upslope.tasks.complete import complete
from upslope.types import Problem, Score

CHAT = ({"role": "user", "content": "?"},)


class World:
    stops = ("=",)

    def __init__(self, answer=None):
        self.answer = answer

    def reply(self, text):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Mine:
    name = "mine"

    def __init__(self, world=None, replies=(), text="3*6=18>> so"):
        self.world, self.shown = world, [Problem("p/0", CHAT, "18", text, replies)]

    def problems(self, split):
        return [Problem(f"{split}/0", CHAT)]

    def demonstrations(self):
        return self.shown

    def episode(self, problem):
        return self.world

    def score(self, problems, responses):
        return [Score(0.0) for _ in responses]


@pytest.mark.parametrize("answer", ["18>>", "", None, [1, 2], ()])
def test_what_a_world_may_say(answer):
    assert complete(Mine(World(answer))).episode(Mine().shown[0]).reply("3*6=") == answer
    assert complete(Mine()).episode(Mine().shown[0]) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (18, "returned 18; it must be text, tokens, or None"),
        ([1, "2"], r"returned \[1, '2'\]; it must be text, tokens, or None"),
        ({"role": "tool", "content": "18"}, "returned .*; it must be text, tokens, or None"),
        (b"18", "returned b'18'; it must be text, tokens, or None"),
        (KeyError("x"), r"crashed: KeyError: 'x' at .*test_guarded.py:\d+"),
        (SystemExit(0), r"crashed: SystemExit: 0 at .*test_guarded.py:\d+"),
    ],
)
def test_what_it_may_not(answer, why):
    episode = complete(Mine(World(answer))).episode(Mine().shown[0])
    with pytest.raises(UserError, match=rf"^task Mine: the episode's reply\(\) {why}"):
        episode.reply("3*6=")


@pytest.mark.parametrize("keeps", [False, True])
def test_whether_it_reads_special_tokens_is_its_own_word(keeps):
    world = World()
    world.keep_special = keeps
    assert complete(Mine(world)).episode(Mine().shown[0]).keep_special is keeps


def test_ctrl_c_within_it_is_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        complete(Mine(World(KeyboardInterrupt()))).episode(Mine().shown[0]).reply("3*6=")


@pytest.mark.parametrize("stops", ["=", ("",), (1,), None, ["=", None]])
def test_stops_are_texts(stops):
    world = World()
    world.stops = stops
    with pytest.raises(UserError, match=r"episode\(\) returned a World; it needs reply\(text\), and stops"):
        complete(Mine(world)).episode(Mine().shown[0])


@pytest.mark.parametrize("replies", [(), ((4, 8),), ((0, 0), (4, 8), (8, 11)), [[4, 8]]])
def test_spans(replies):
    assert len(complete(Mine(replies=replies)).demonstrations()) == 1


@pytest.mark.parametrize(
    "replies",
    [((5, 99),), ((4, 8), (6, 9)), ((8, 4),), ((-1, 2),), ((1.0, 2.0),), "48", (4, 8), ((4,),), ((True, 2),), 7],
)
def test_spans_that_are_none(replies):
    with pytest.raises(
        UserError, match=r"demonstrations\(\)\[0\] \(p/0\): replies holds .* \(it has 11\), in order and"
    ):
        complete(Mine(replies=replies)).demonstrations()
