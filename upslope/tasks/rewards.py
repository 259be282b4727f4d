"""Reward functions of the user's, and their weighted sum.

A reward function is called as TRL calls it, so a file written for TRL works unchanged::

    def my_reward(prompts, completions, answer, **kwargs):          # every further column of the rows, by its name
        return [1.0 if a in c[0]["content"] else 0.0 for c, a in zip(completions, answer, strict=True)]

Conversational prompts come as lists of messages with completions ``[{"role": "assistant", "content": ...}]``, plain
prompts and their completions as strings. Besides the columns there are ``completion_ids``, ``trainer_state``,
``log_metric`` and ``log_extra``. The function returns one number or None for each completion, in anything that can be
gone through (a list, an array, a tensor, a Series, a generator); it may be ``async``, and all that are share one event
loop for the life of the process. None means *not applicable*: the function is left out of that sample's weighted sum
(0.0 is a value like any other). Where TRL is lenient upslope is not: a NaN, a wrong number of values, a crash, or None
from all functions stops the run with a message. A function without ``**kwargs`` gets only the arguments it names.

Every function gets its own copy of every cell. What its code sets of the process (the folder, seeds, torch's defaults)
holds while its file's code is at work, and nowhere else (``upslope.plugins.world``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.tasks.reward_calls import RewardCalls, RewardFunction
from upslope.types import Message, Problem, Score


@dataclass(frozen=True)
class Rewards:
    """Reward functions by name, each with its weight.

    >>> length = lambda completions: [float(len(text)) for text in completions]
    >>> toy = Problem("toy/0", ({"role": "user", "content": "hi"},), plain=True)
    >>> Rewards({"length": length}, (0.5,)).score([toy], ["four"])[0].reward
    2.0
    """

    functions: Mapping[str, RewardFunction]
    weights: tuple[float, ...]
    deciding: tuple[str, ...] = ()
    """Those that are marked to decide what is right (``upslope.tasks.right``)."""

    def of_conversation(self, problem: Problem, chat: Sequence[Message], environment: Any = None) -> Score:
        """The same for one conversation, which the functions are given whole: all messages after the prompt, and its
        ``environments`` where it has one. ``completion_ids`` are all tokens that the policy chose."""
        said = [m["content"] for m in chat if m["role"] == "assistant"]
        calls = RewardCalls([problem], said[-1:] or [""], chats=[chat], environments=(environment,))
        return self._scores(calls, [problem])[0]

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """The weighted sum of the applicable rewards of each response."""
        if not problems and not responses:
            return []
        return self._scores(RewardCalls(problems, responses), problems)

    def _scores(self, calls: RewardCalls, problems: Sequence[Problem]) -> list[Score]:
        values = calls.values(self.functions)
        told = calls.written.metrics
        scores = []
        for i, problem in enumerate(problems):
            parts = {name: column[i] for name, column in values.items()}
            weighted = [w * part for w, part in zip(self.weights, parts.values(), strict=True) if part is not None]
            if not weighted:
                raise UserError(
                    f"{problem.id}: every reward function ({', '.join(parts)}) returned None; "
                    "at least one must return a number for each sample"
                )
            needed = len(parts) > 1 or self.weights != (1.0,) or self.deciding  # a mark is judged by the part
            shown = parts if needed else {}
            scores.append(Score(math.fsum(weighted), parts=shown, told=told, extra=calls.written.extra(i)))
        return scores


NO_REWARDS = Rewards({}, ())
"""What a task has whose reward is its own, or that has none."""
