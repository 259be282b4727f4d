"""A game of two turns: the policy guesses a number, hears "Higher." or "Lower.", and guesses once more.

Of three numbers the middle one, and then what was heard, is right every time; with one guess nobody is right more often
than every third time. The demonstrations guess from the right ten at random: they show what a guess looks like, and
nothing of the game. A quarter of the ranges is held out: what is right there has to be read off others.

    python examples/tools/make_tools.py                        # the tokenizer of both examples
    upslope train examples/tools/guessing-sft.toml             # what a guess looks like
    upslope train examples/tools/guessing-grpo.toml            # from there on by playing
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import upslope as up

RANGES = [(10 * ten + one, 10 * ten + one + 2) for ten in range(1, 10) for one in range(8)]
HELD_OUT = {(low, high) for low, high in RANGES if (low // 10 + low % 10) % 4 == 0}
"""Every ten and every last digit is in other ranges too."""


class Game(up.Episode):
    """The world of one attempt: it thinks of a number."""

    stops = ()  # asked at the end of every turn
    limits = up.ConversationLimits(turns=2)

    def __init__(self, secret: int) -> None:
        self.secret, self.won = secret, False

    def reply(self, text: str) -> str | None:
        guess = text.strip()
        if not guess.isdigit():
            return "That is no number."
        self.won = int(guess) == self.secret
        if self.won:
            return None  # the conversation is over
        return "Higher." if int(guess) < self.secret else "Lower."

    def score(self, chat: Sequence[Mapping[str, Any]]) -> up.Score:
        return up.Score(float(self.won))


class Guessing:
    """Every range of three numbers of one ten, and every number in it."""

    name = "guessing"
    reads_answers = False
    max_tokens = 64

    def problems(self, split: str) -> list[up.Problem]:
        return [
            up.Problem(f"{low}/{secret}", asked(low, high), truth=str(secret), columns={"low": low, "high": high})
            for low, high in RANGES
            if ((low, high) in HELD_OUT) == (split == "test")
            for secret in range(low, high + 1)
        ]

    def demonstrations(self) -> list[up.Problem]:
        rng = random.Random(0)
        return [played(rng, number, problem) for number in range(20) for problem in self.problems("train")]

    def episode(self, problem: up.Problem) -> Game:
        return Game(int(problem.truth))

    def score(self, problems: Sequence[up.Problem], responses: Sequence[str]) -> list[up.Score]:
        return [up.Score(0.0) for _ in responses]  # never asked: the game itself says what was earned


def asked(low: int, high: int) -> tuple[Mapping[str, Any], ...]:
    return ({"role": "user", "content": f"I think of a number from {low} to {high}. Guess it."},)


def played(rng: random.Random, number: int, problem: up.Problem) -> up.Problem:
    """A game with guesses at random, in the range or up to three beside it."""
    game, chat = Game(int(problem.truth)), [*problem.messages]
    low, high = problem.columns["low"], problem.columns["high"]
    ten = low - low % 10
    for _ in range(2):
        guess = str(rng.randint(max(low - 3, ten), min(high + 3, ten + 9)))
        chat.append({"role": "assistant", "content": guess})
        reply = game.reply(guess)
        if reply is None:
            break
        chat.append({"role": "user", "content": reply})
    while chat[-1]["role"] != "assistant":
        chat.pop()
    return up.Problem(f"{problem.id}/{number}", problem.messages, demonstration=guess, conversation=tuple(chat))
