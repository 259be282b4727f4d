"""Reward functions of the user's, and their weighted sum.

A reward function is called as TRL calls it, so a file written for TRL works unchanged::

    def my_reward(prompts, completions, answer, **kwargs):          # every further column of the rows, by its name
        return [1.0 if a in c[0]["content"] else 0.0 for c, a in zip(completions, answer, strict=True)]

Conversational prompts come as lists of messages with completions ``[{"role": "assistant", "content": ...}]``, plain
prompts and their completions as strings. The function returns one number or None for each completion; it may be
``async``. None means *not applicable*: the function is left out of that sample's weighted sum (0.0 is a value like any
other). Where TRL is lenient upslope is not: a NaN, a wrong number of values, a crash, or None from all functions stops
the run with a message. A function without ``**kwargs`` gets only the columns it names.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, said, unless_interrupted
from upslope.tasks.at_work import at_work, on
from upslope.types import Message, Problem, Score

RewardFunction = Callable[..., Any]

_NOT_COLUMNS = frozenset({"prompt", "completion", "completion_ids"})
"""Columns that TRL does not hand on."""
_TRAINER_ONLY = frozenset({"completion_ids", "trainer_state", "log_extra", "log_metric", "environments"})
"""What TRL's trainer also passes. Scores here depend on text alone, and text is never tokenised again for them."""


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
        ``environments`` where it has one."""
        said = [m["content"] for m in chat if m["role"] == "assistant"]
        arguments = _arguments([problem], [str(said[-1]) if said else ""])
        if not problem.plain:
            arguments["completions"] = [[dict(message) for message in chat]]
        if environment is not None:
            arguments["environments"] = [environment]
        return self._scores([problem], arguments)[0]

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Score]:
        """The weighted sum of the applicable rewards of each response."""
        if not problems and not responses:
            return []
        return self._scores(problems, _arguments(problems, responses))

    def _scores(self, problems: Sequence[Problem], arguments: Mapping[str, list[Any]]) -> list[Score]:
        values = {name: _call(name, function, arguments, problems) for name, function in self.functions.items()}
        scores = []
        for i, problem in enumerate(problems):
            parts = {name: column[i] for name, column in values.items()}
            weighted = [w * part for w, part in zip(self.weights, parts.values(), strict=True) if part is not None]
            if not weighted:
                raise UserError(
                    f"{problem.id}: every reward function ({', '.join(parts)}) returned None; "
                    "at least one must return a number for each sample"
                )
            told = len(parts) > 1 or self.weights != (1.0,)
            scores.append(Score(math.fsum(weighted), parts=parts if told else {}))
        return scores


NO_REWARDS = Rewards({}, ())
"""What a task has whose reward is its own, or that has none."""


def unwrapped(function: RewardFunction) -> RewardFunction:
    """The function itself, below partial and functools.wraps."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: RewardFunction = inspect.unwrap(function)
    return inner


def _arguments(problems: Sequence[Problem], responses: Sequence[str]) -> dict[str, list[Any]]:
    """Everything a reward function may ask for; a column that some rows lack is None there."""
    pairs = list(zip(problems, responses, strict=True))
    names = {name: None for problem in problems for name in problem.columns if name not in _NOT_COLUMNS}
    return {
        "prompts": [p.messages[0]["content"] if p.plain else [dict(m) for m in p.messages] for p in problems],
        "completions": [r if p.plain else [{"role": "assistant", "content": r}] for p, r in pairs],
        **{name: [problem.columns.get(name) for problem in problems] for name in names},
    }


def _call(
    name: str, function: RewardFunction, arguments: Mapping[str, list[Any]], problems: Sequence[Problem]
) -> list[float | None]:
    plain = unwrapped(function)
    code = getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)
    # A fresh list for each function: one that sorts or empties its arguments must not misalign the next.
    wanted = {key: list(arguments[key]) for key in _wanted(name, function, arguments)}
    try:
        with at_work(f"reward function {name!r} {on(problems)}"):
            result = function(**wanted)
            if inspect.isawaitable(result):
                result = _wait(result)
    except BaseException as error:
        unless_interrupted(error)
        what = describe(error, code.co_filename if code else "")
        raise UserError(
            f"reward function {name!r} crashed {on(problems)}: {what}; "
            "a crash is never counted as 0, so mend it or return None where the function does not apply"
        ) from error
    if not isinstance(result, list | tuple):
        raise UserError(
            f"reward function {name!r} returned a {type(result).__name__} {on(problems)}: "
            "return a list with one number or None for each completion (.tolist() for an array)"
        )
    if len(result) != len(problems):
        raise UserError(
            f"reward function {name!r} returned {len(result)} values for {len(problems)} completions "
            f"({problems[0].id} to {problems[-1].id}): return one number or None for each"
        )
    return [_value(name, value, problem) for value, problem in zip(result, problems, strict=True)]


def _wanted(name: str, function: RewardFunction, arguments: Mapping[str, object]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return list(arguments)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in named:
        if parameter.name in arguments or parameter.default is not parameter.empty:
            continue
        ours = parameter.name not in _TRAINER_ONLY
        why = "no such column" if ours else "only TRL's trainer has it; give it the default None"
        raise UserError(f"reward function {name!r} needs {parameter.name!r}: {why}; known: {', '.join(arguments)}")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return [key for key in arguments if takes_all or key in {p.name for p in named}]


def _wait(result: Awaitable[Any]) -> Any:
    async def finish() -> Any:
        return await result

    # A thread of its own, because a notebook's main thread already runs an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, finish()).result()


def finite(value: Any) -> float | None:
    """A number of any library, or true or false, as a float; None if it is none, or not finite."""
    try:
        # Numbers of all libraries (and bools) have __float__; float() would also parse strings, which are mistakes.
        number = float(value) if hasattr(value, "__float__") else math.nan
    except BaseException as error:
        unless_interrupted(error)
        return None
    return number if math.isfinite(number) else None


def _value(name: str, value: Any, problem: Problem) -> float | None:
    if value is None:
        return None
    number = finite(value)
    if number is None:
        raise UserError(
            f"reward function {name!r} returned {said(value):.80} for {problem.id}: "
            "return a finite number, or None where the function does not apply"
        )
    return number
