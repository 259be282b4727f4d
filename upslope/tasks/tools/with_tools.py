"""A task whose attempts may call tools: ``task.tools`` and ``task.environment``, around any task that has problems."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from upslope.errors import UserError
from upslope.plugins import load_object, source
from upslope.tasks.around import OtherRows
from upslope.tasks.base import Split, Task
from upslope.tasks.episode import ConversationLimits, Episode
from upslope.tasks.rewards import Rewards
from upslope.tasks.right import RightRule
from upslope.tasks.sandbox.pool import require_sandbox
from upslope.tasks.tools.sandboxed import BUILT_IN, LIMITS, python
from upslope.tasks.tools.toolbox import named
from upslope.tasks.tools.worlds import EnvironmentWorld, ToolWorld, new_environment, reward_of, tools_of
from upslope.types import Message, Problem, Score

ToolFunction = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class ToolSettings:
    """What attempts may use, and how far a conversation goes.

    >>> ToolSettings(tools=("tools.py:add",)).limits.turns
    0
    """

    tools: Sequence[str | ToolFunction] = ()
    """Functions, FILE.py:NAME (or FILE.py:NAME,NAME), or the name of one that upslope has: python."""
    environment: str | Callable[[], Any] = ""
    """A class, or FILE.py:CLASS."""
    limits: ConversationLimits = ConversationLimits()
    seconds: float = 0.0
    """What a call may take; 0: any time."""

    def __bool__(self) -> bool:
        return bool(self.tools or self.environment)


class WithTools(OtherRows):
    """Every attempt at the task's problems is a conversation with tools.

    The user's reward functions see it whole, as TRL shows it to them, its environment too; what an environment says of
    itself (``get_reward``) is added to theirs. A task of upslope's own, or of the user's, scores the last turn.
    """

    def __init__(
        self,
        task: Task,
        settings: ToolSettings,
        rewards: Rewards,
        modules: dict[str, ModuleType],
        rule: RightRule | None,
    ) -> None:
        """``modules`` keeps files already imported; ``rule``: when a conversation is right that reward functions or an
        environment judge."""
        super().__init__(task)
        self._settings, self._rewards, self._rule, self._lock = settings, rewards, rule, threading.Lock()
        self._tools = named([f for spec in settings.tools for f in _functions(spec, modules)])
        self._factory: Callable[[], Any] | None = None
        self._shown = self._tools
        self._pays = False
        if settings.environment:
            spec = settings.environment
            self._factory = load_object(spec, "environment", modules) if isinstance(spec, str) else spec
            if not callable(self._factory):
                raise UserError(f"environment {spec!r} is a {type(self._factory).__name__}, not a class")
            one = new_environment(self._factory)
            self._shown = named([*(tool.function for tool in self._tools), *tools_of(one)])
            self._pays = callable(getattr(one, "get_reward", None))
        self.has_reward = task.has_reward or self._pays

    def made(self, problems: Sequence[Problem], split: Split | None) -> list[Problem]:
        return [self._equipped(problem) for problem in problems]

    def _equipped(self, problem: Problem) -> Problem:
        if not self._shown:
            return problem
        if problem.template.get("tools"):
            raise UserError(f"{problem.id}: its row has tools, and so has task.tools; drop one of them")
        return dataclasses.replace(problem, template={**problem.template, "tools": self._shown})

    def check_rewards(self) -> None:
        if any(tool.function is python for tool in self._tools):
            require_sandbox(LIMITS)
        if not self._pays or self._rewards.functions:
            super().check_rewards()

    def fingerprint(self) -> str:
        specs = [*self._settings.tools, self._settings.environment]
        parts = [super().fingerprint(), repr(self._settings.limits), repr(self._settings.seconds)]
        parts += [source(s) if isinstance(s, str) else getattr(s, "__qualname__", "") for s in specs]
        return hashlib.sha256("\n".join([*parts, *map(repr, specs)]).encode()).hexdigest()

    def episode(self, problem: Problem) -> Episode:
        if super().episode(problem) is not None:
            raise UserError(f"task {self.name} has a world of its own; it cannot have task.tools or task.environment")

        def judge(chat: Sequence[Message], environment: Any) -> Score | None:
            score = self._judged(problem, chat, environment)
            return score if score is None or self._rule is None else self._rule(score)

        settings = self._settings
        if self._factory is None:
            return ToolWorld(self._tools, settings.limits, settings.seconds, judge)
        return EnvironmentWorld(self._factory, problem, self._tools, settings.limits, settings.seconds, judge)

    def _judged(self, problem: Problem, chat: Sequence[Message], environment: Any) -> Score | None:
        """By the environment and the user's reward functions, one conversation at a time: they may not be made for
        threads."""
        with self._lock:
            own = reward_of(environment)
            if not self._rewards.functions:
                return None if own is None else Score(own)
            score = self._rewards.of_conversation(problem, chat, environment)
        if own is None:
            return score
        names = dict(score.parts) or {next(iter(self._rewards.functions)): score.reward}
        parts: Mapping[str, float | None] = {**names, type(environment).__name__: own}
        return dataclasses.replace(score, reward=score.reward + own, parts=parts)


def _functions(spec: str | ToolFunction, modules: dict[str, ModuleType]) -> list[ToolFunction]:
    if not isinstance(spec, str):
        return [spec]
    if spec in BUILT_IN:
        return [BUILT_IN[spec]]
    file, _, names = spec.rpartition(":")
    found = [load_object(f"{file}:{name.strip()}" if file else spec, "tool", modules) for name in names.split(",")]
    for each in found:
        if not callable(each):
            raise UserError(f"tool {spec!r} is a {type(each).__name__}, not a function")
    return found
