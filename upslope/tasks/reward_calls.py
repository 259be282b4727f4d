"""Calling a user's reward functions as TRL's trainer calls them."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, unless_interrupted
from upslope.plugins.world import FileWorld, world_of
from upslope.tasks.at_work import at_work, on
from upslope.tasks.awaited import all_of
from upslope.tasks.response import Standing
from upslope.tasks.reward_values import checked_values, listed_values
from upslope.tasks.trainer_state import TrainerState, WrittenDown
from upslope.types import Message, Problem

RewardFunction = Callable[..., Any]
NOT_COLUMNS = frozenset({"prompt", "completion", "completion_ids"})
"""Columns that TRL does not hand on."""
UNKNOWN: Mapping[str, str] = {
    "completion_ids": "what is scored here is text, and nothing says its tokens (a line's 'tokens' does); give it the "
    "default None",
    "environments": "there is none without task.environment; give it the default None",
}
"""Why there is none of something that TRL's trainer passes."""


def unwrapped(function: RewardFunction) -> RewardFunction:
    """The function itself, below partial and functools.wraps."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: RewardFunction = inspect.unwrap(function)
    return inner


def home_of(function: RewardFunction) -> FileWorld:
    """The world of the file that a function is from."""
    plain = unwrapped(function)
    return world_of(getattr(plain, "__module__", None) or type(plain).__module__)


@dataclass
class _Call:
    """A function that was called: what it returned, or what is still to be waited for."""

    name: str
    function: RewardFunction
    result: Any = None
    waiting: Awaitable[Any] | None = None


class RewardCalls:
    """One batch of responses, and the functions that judge it."""

    def __init__(
        self,
        problems: Sequence[Problem],
        responses: Sequence[str],
        *,
        chats: Sequence[Sequence[Message]] = (),
        environments: Sequence[Any] = (),
    ) -> None:
        """``chats``: of conversations, all messages after each prompt, which stand in the place of responses to chats.
        ``environments``: what each conversation was with; handed on themselves."""
        self._problems = problems
        self.written = WrittenDown(len(problems))
        pairs = list(zip(problems, responses, strict=True))
        names = {name: None for problem in problems for name in problem.columns if name not in NOT_COLUMNS}
        self._lists: dict[str, list[Any]] = {
            "prompts": [_prompt(problem) for problem in problems],
            "completions": [str(r) if p.plain else [{"role": "assistant", "content": str(r)}] for p, r in pairs],
            **{name: [problem.columns.get(name) for problem in problems] for name in names},
        }
        if chats:
            shown = zip(problems, self._lists["completions"], chats, strict=True)
            self._lists["completions"] = [text if p.plain else [*map(_shown, chat)] for p, text, chat in shown]
        self._environments = [each for each in environments if each is not None]
        tokens = [getattr(response, "tokens", None) for response in responses]
        if all(ids is not None for ids in tokens):
            self._lists["completion_ids"] = [list(ids) for ids in tokens if ids is not None]
        self._standing: Standing = getattr(responses[0], "standing", Standing())

    def values(self, functions: Mapping[str, RewardFunction]) -> dict[str, list[float | None]]:
        """What each function says of each response. Coroutines are waited for together, once all are called. Raises
        UserError."""
        calls: list[_Call] = []
        try:
            for name, function in functions.items():
                calls.append(self._called(name, function))
            by_home: dict[FileWorld, list[_Call]] = {}
            for call in calls:
                if call.waiting is not None:
                    by_home.setdefault(home_of(call.function), []).append(call)
            for home, together in by_home.items():
                self._wait(home, together)
        finally:
            for call in calls:
                if inspect.iscoroutine(call.waiting):
                    call.waiting.close()  # one that was never begun would be complained of
        return {call.name: self._checked(call) for call in calls}

    def _called(self, name: str, function: RewardFunction) -> _Call:
        wanted = self._wanted(name, function)
        call = _Call(name, function)
        try:
            with at_work(f"reward function {name!r} {on(self._problems)}"), home_of(function).inside():
                result = function(*[wanted.pop(key) for key in _by_place(function, wanted)], **wanted)
                if inspect.isasyncgen(result):
                    result = _gathered(result)
                if inspect.isawaitable(result):
                    call.waiting = result
                else:
                    call.result = (result, listed_values(result))  # a generator works while it is gone through
        except BaseException as error:
            raise self._crashed(call, error) from error
        return call

    def _wait(self, home: FileWorld, calls: Sequence[_Call]) -> None:
        names = " and ".join(repr(call.name) for call in calls)
        functions = "reward function" if len(calls) == 1 else "reward functions"
        waiting = [call.waiting for call in calls if call.waiting is not None]
        with at_work(f"{functions} {names} {on(self._problems)}"), home.inside():
            results = all_of(waiting)
            for call, result in zip(calls, results, strict=True):
                call.waiting = None
                if isinstance(result, BaseException):
                    raise self._crashed(call, result) from result
                call.result = (result, listed_values(result))

    def _crashed(self, call: _Call, error: BaseException) -> UserError:
        """What to raise for an error of the function's own."""
        unless_interrupted(error)
        plain = unwrapped(call.function)
        code = getattr(plain, "__code__", None) or getattr(type(plain).__call__, "__code__", None)
        what = str(error) if isinstance(error, UserError) else describe(error, code.co_filename if code else "")
        return UserError(
            f"reward function {call.name!r} crashed {on(self._problems)}: {what}; "
            "a crash is never counted as 0, so mend it or return None where the function does not apply"
        )

    def _checked(self, call: _Call) -> list[float | None]:
        result, values = call.result
        return checked_values(call.name, result, values, self._problems)

    def _wanted(self, name: str, function: RewardFunction) -> dict[str, Any]:
        """The arguments that a function takes, every cell its own copy: what it does to them nobody else sees, and no
        later step."""
        others: dict[str, Any] = {
            "trainer_state": TrainerState.of(self._standing),
            "log_metric": self.written.log_metric,
            "log_extra": self.written.log_extra,
        }
        if self._environments:
            others["environments"] = list(self._environments)
        taken = taken_by(name, function, list(self._lists | others))
        # A column of one of these names comes first.
        return {key: list(map(_copied, self._lists[key])) if key in self._lists else others[key] for key in taken}


def taken_by(name: str, function: RewardFunction, known: Sequence[str]) -> list[str]:
    """Which of the known arguments a function is given: all if it has ``**kwargs``, as in TRL, else those it names.
    Raises UserError for one that it needs and that nobody has."""
    try:
        own = inspect.signature(function, follow_wrapped=False).parameters
        inner = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C have no signature
        return list(known)
    if all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own.values()):
        own = inner  # a wrapper that only passes on
    asked = set(own)
    if any(p.kind is p.VAR_KEYWORD for p in own.values()):
        everything = any(p.kind is p.VAR_KEYWORD for p in inner.values())
        asked |= set(known if everything else inner)
    for parameter in own.values():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if parameter.name not in known and not optional:
            why = UNKNOWN.get(parameter.name, "no such column")
            raise UserError(f"reward function {name!r} needs {parameter.name!r}: {why}; known: {', '.join(known)}")
    return [key for key in known if key in asked]


def _by_place(function: RewardFunction, wanted: Mapping[str, Any]) -> list[str]:
    """The arguments that cannot be given by name (``def f(completions, /)``)."""
    try:
        own = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return []
    return list(itertools.takewhile(wanted.__contains__, (p.name for p in own if p.kind is p.POSITIONAL_ONLY)))


def _shown(message: Message) -> dict[str, Any]:
    """A message as plain data."""
    return {**message, "content": str(message["content"])}


async def _gathered(values: Any) -> list[Any]:
    return [value async for value in values]


def _prompt(problem: Problem) -> Any:
    """As the row has it."""
    if problem.plain:
        return problem.messages[0]["content"]
    given = problem.columns.get("prompt")
    return given if isinstance(given, list) else [dict(message) for message in problem.messages]


def _copied(cell: Any) -> Any:
    if cell is None or type(cell) in (str, int, float, bool, bytes):
        return cell
    try:
        return copy.deepcopy(cell)
    except Exception:  # a problem made in Python may hold anything
        return cell
