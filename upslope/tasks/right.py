"""``task.right``: what counts as right, where a reward is more than 1 for right and less for anything else.

One rule for accuracy, pass@k, pass rates and learnable problems:

- A reward function that is marked, ``FILE.py:NAME=right``, decides by its own value: the attempt is right if that is at
  least ``task.right``, or 1. Of several marked ones all have to be, of those that apply, and one has to apply.
- Without a mark the whole reward decides, if ``task.right`` is given: the attempt is right from there on.
- Without either, a single function decides by its own value, whatever its weight: right is 1 or more. So does the sum
  of several whose weights are a share of 1 each.
- Several functions of any other weights decide nothing: the largest sum is not known, and a wrong answer of the right
  form may earn 1. There is a mean reward then, and no accuracy.

All comparisons allow for rounding (``upslope.marks.comes_to``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from upslope.errors import UserError
from upslope.marks import FULL_MARKS, NEARLY, comes_to
from upslope.tasks.around import AroundTask
from upslope.tasks.base import Task
from upslope.tasks.episode import Episode, Reply
from upslope.tasks.rewards import Rewards
from upslope.types import Message, Problem, Score

MARK = "=right"
"""Behind the name of a reward function that decides."""
HOW = "mark the one that decides (--reward FILE.py:NAME=right), or say from which reward on (task.right=2.0)"
NO_ACCURACY = f"several reward functions, and nothing says what is right, so there is no accuracy: {HOW}"


@dataclass(frozen=True)
class RightRule:
    """When a score is right.

    >>> RightRule(2.0)(Score(3.0)).right, RightRule(2.0)(Score(1.0)).right
    (True, False)
    """

    least: float = FULL_MARKS
    deciding: tuple[str, ...] = ()
    """Names of the functions whose values decide; none: the whole reward does."""
    says: bool = True
    """False: nothing is right or wrong by it."""
    own_reward: bool = True
    """Whether the reward is the task's own, as its lenient reading is; beside reward functions that is 0 or 1."""

    def __call__(self, score: Score) -> Score:
        if not self.says:
            return replace(score, right=None, decided=False)
        values = [score.parts.get(name) for name in self.deciding] if self.deciding else [score.reward]
        known = [value for value in values if value is not None]
        right = bool(known) and not score.timed_out and all(comes_to(value, self.least) for value in known)
        lenient = score.lenient
        if lenient is not None and self.own_reward:
            lenient = float(comes_to(lenient, self.least))
        return replace(score, right=right, decided=True, lenient=lenient)


class Decided(AroundTask):
    """A task whose scores say what is right by a rule of the user's."""

    def __init__(self, task: Task, rule: RightRule) -> None:
        super().__init__(task)
        self._rule, self.says_right = rule, rule.says

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        return [self._rule(score) for score in super().score(problems, responses)]

    def episode(self, problem: Problem) -> Episode | None:
        world = super().episode(problem)
        return None if world is None else DecidedEpisode(world, self._rule)


class DecidedEpisode(Episode):
    """A world whose own score says what is right by the same rule."""

    def __init__(self, own: Episode, rule: RightRule) -> None:
        self._own, self._rule = own, rule
        self.stops, self.limits, self.keep_special = own.stops, own.limits, own.keep_special

    @property
    def calls(self) -> int:  # type: ignore[override]
        return self._own.calls

    @property
    def wrong_calls(self) -> int:  # type: ignore[override]
        return self._own.wrong_calls

    def reply(self, text: str) -> Reply:
        return self._own.reply(text)

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        return self._own.opening(messages)

    def score(self, chat: Sequence[Message]) -> Score | None:
        found = self._own.score(chat)
        return None if found is None else self._rule(found)


def with_right(task: Task, rewards: Rewards, least: float | None) -> Task:
    """The task with the rule that its reward functions and ``task.right`` make; as it is where its own rewards say
    it."""
    rule = rule_of(rewards, least)
    return task if rule is None else Decided(task, rule)


def require_reward(task: Task, least: float | None) -> None:
    """Raise UserError for ``task.right`` where there is no reward: of the task, of functions, of an environment."""
    if least is not None and not task.has_reward:
        raise UserError(f"task.right = {least:g}: the task has no reward that could reach it; give --reward as well")


def rule_of(rewards: Rewards, least: float | None) -> RightRule | None:
    """The rule for these functions; None: a reward of at least 1."""
    if rewards.deciding:
        return RightRule(FULL_MARKS if least is None else least, rewards.deciding, own_reward=False)
    if least is not None:
        return RightRule(least, own_reward=not rewards.functions)
    if len(rewards.functions) == 1 and rewards.weights[0] > 0:
        return None if rewards.weights[0] == 1 else RightRule(deciding=tuple(rewards.functions), own_reward=False)
    shares = all(weight >= 0 for weight in rewards.weights) and abs(math.fsum(rewards.weights) - 1) <= NEARLY
    return None if shares or not rewards.functions else RightRule(says=False)


def require_right(task: Task, who: str) -> None:
    """Raise UserError, which names ``who`` has to know, where the task does not say what is right."""
    if task.has_reward and not task.says_right:
        raise UserError(f"{who} has to know which attempts are right, and several rewards do not say it: {HOW}")


def unmarked(spec: str) -> tuple[str, bool]:
    """A reward's name without its mark, and whether it had one. Raises UserError for a mark that is none.

    >>> unmarked("gist.py:correctness=right"), unmarked("gist.py:form")
    (('gist.py:correctness', True), ('gist.py:form', False))
    """
    file, colon, name = spec.rpartition(":")
    name, equals, mark = name.partition("=")
    if equals and equals + mark != MARK:
        raise UserError(
            f"reward {spec!r}: {equals + mark!r} behind a function's name means nothing; {MARK!r} says that it decides"
        )
    return f"{file}{colon}{name}", bool(equals)
