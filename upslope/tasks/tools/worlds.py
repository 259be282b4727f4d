"""The worlds of attempts that call tools: functions, or an environment whose methods are the tools.

An environment is TRL's: a class without arguments, with ``reset(**columns) -> str | None`` (what it returns is appended
to the last message), public methods that are its tools, and perhaps ``get_reward() -> float``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from upslope.errors import UserError
from upslope.plugins import describe, file_of, said, unless_interrupted
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.tasks.reward_values import finite
from upslope.tasks.tools.calls import calls_in
from upslope.tasks.tools.toolbox import Tool, Toolbox, named
from upslope.types import Message, Problem, Score

NOT_TOOLS = ("reset", "get_reward")
ConversationJudge = Callable[[Sequence[Message], Any], Score | None]
"""The score of a conversation after its prompt and its environment (None where it has none); None: the task's."""

UNHEARD = "no turn is left"
"""What is replied to calls in the last turn. It is never read."""


class ToolWorld(Episode):
    """Every turn's calls are answered, in order; a turn without one is the last. A turn that the prompt begins is read
    from its beginning on. Calls in the last turn that the limits allow are not made: nobody would hear of them, and TRL
    makes none either."""

    stops: Sequence[str] = ()
    keep_special = True
    """Llama's and Mistral's calls begin with one."""

    def __init__(
        self, tools: Sequence[Tool], limits: ConversationLimits, seconds: float, judge: ConversationJudge
    ) -> None:
        """``seconds``: what a call may take; 0: any time."""
        self._tools, self.limits, self._seconds, self._judge = tuple(tools), limits, seconds, judge
        self.calls = self.wrong_calls = self._turns = 0
        self._begun = ""
        """What the prompt begins of the first turn."""

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        self._begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        return messages

    def reply(self, text: str) -> Reply:
        calls = calls_in(self._begun + text)
        self._begun, self._turns = "", self._turns + 1
        if calls and self._turns == self.limits.turns:
            return UNHEARD
        messages: list[Message] = []
        toolbox = Toolbox(self._tools, self._seconds)
        for call in calls:
            answer = toolbox.answer(call)
            self.calls += 1
            self.wrong_calls += answer.failed
            messages.append({"role": "tool", "name": call.name or "unknown", "content": answer.text})
        return messages or None

    def score(self, chat: Sequence[Message]) -> Score | None:
        return self._judge(chat, None)


class EnvironmentWorld(ToolWorld):
    """The same with an environment of its own, made as the conversation begins."""

    def __init__(
        self,
        factory: Callable[[], Any],
        problem: Problem,
        tools: Sequence[Tool],
        limits: ConversationLimits,
        seconds: float,
        judge: ConversationJudge,
    ) -> None:
        super().__init__(tools, limits, seconds, judge)
        self._factory, self._problem, self._environment = factory, problem, None

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        self._environment = made = new_environment(self._factory)
        self._tools = (*self._tools, *named(tools_of(made)))
        observed = _asked(made, "reset", **_columns(made.reset, self._problem))
        if observed is None:
            return super().opening(messages)
        if not isinstance(observed, str):
            raise UserError(f"{_name(made)}.reset() returned {said(observed):.60}; it must be text, or None")
        return super().opening((*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + observed}))

    def score(self, chat: Sequence[Message]) -> Score | None:
        return self._judge(chat, self._environment)


def new_environment(factory: Callable[[], Any]) -> Any:
    """An environment. Raises UserError for one that cannot be made, or has no ``reset``."""
    try:
        made = factory()
    except BaseException as error:
        unless_interrupted(error)
        name = getattr(factory, "__name__", type(factory).__name__)
        raise UserError(f"environment {name} cannot be made: {describe(error, file_of(factory))}") from error
    if not callable(getattr(made, "reset", None)):
        raise UserError(f"environment {_name(made)} has no reset(); it begins every attempt, and may return text")
    return made


def tools_of(environment: Any) -> list[Callable[..., Any]]:
    """Its public methods but ``reset`` and ``get_reward``, by name. A property is none, and is not evaluated."""
    found = [name for name, _ in inspect.getmembers(type(environment), predicate=inspect.isfunction)]
    return [getattr(environment, name) for name in found if not name.startswith("_") and name not in NOT_TOOLS]


def reward_of(environment: Any) -> float | None:
    """What the environment itself says that was earned; None: nothing. Raises UserError for what is no number."""
    if not callable(getattr(environment, "get_reward", None)):
        return None
    found = _asked(environment, "get_reward")
    number = finite(found)
    if number is None:
        raise UserError(f"{_name(environment)}.get_reward() returned {said(found):.60}; it must be a finite number")
    return number


def _asked(environment: Any, method: str, **arguments: Any) -> Any:
    try:
        return getattr(environment, method)(**arguments)
    except BaseException as error:
        unless_interrupted(error)
        what = describe(error, file_of(type(environment)))
        raise UserError(f"{_name(environment)}.{method}() crashed: {what}") from error


def _columns(reset: Callable[..., Any], problem: Problem) -> dict[str, Any]:
    """The columns of the problem's row that ``reset`` takes, its prompt among them."""
    given = {"prompt": [dict(m) for m in problem.messages], **problem.columns}
    parameters = inspect.signature(reset).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    return {p.name: given[p.name] for p in parameters if p.name in given}


def _name(environment: Any) -> str:
    return type(environment).__name__
