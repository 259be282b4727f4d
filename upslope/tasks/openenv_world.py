"""The world of an attempt at an environment of OpenEnv: a session of its own at the server.

Every turn is an action, and its observation what the world says. Where the server lends tools, a turn's calls are made
at the server, one after the other, and a turn without calls ends the attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from upslope.errors import UserError
from upslope.plugins import said
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.tasks.openenv_client import NOT_AN_ACTION, RAISED, Observed, OpenEnvSession, ServerSaysNo
from upslope.tasks.tools.call import Call
from upslope.tasks.tools.calls import calls_in
from upslope.tasks.tools.toolbox import MOST_SAID, Answered, Tool, arguments_given, fault_of, told_error
from upslope.types import Message, Score

RewardRule = Literal["sum", "last"]


class OpenEnvRules(NamedTuple):
    """How turns become actions, and what comes back words and a reward.

    >>> OpenEnvRules("message").reward
    'sum'
    """

    action: str
    """The field of an action that a turn's text goes to."""
    observation: str | None = None
    """The field of an observation that is said; None: all of it, as JSON."""
    reward: RewardRule = "sum"
    on_error: Literal["stop", "tell"] = "stop"
    """What becomes of an error that the environment raises in a step."""
    tools: Sequence[Tool] = ()

    def words(self, observation: Mapping[str, Any]) -> str:
        """An observation as text; empty where it says nothing."""
        if self.observation is not None:
            found = observation.get(self.observation)
        else:
            found = observation if any(value not in (None, "", [], {}) for value in observation.values()) else None
        text = "" if found is None else found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        return whole_characters(text)


class OpenEnvWorld(Episode):
    """See above. It begins with the conversation."""

    stops: Sequence[str] = ()

    def __init__(
        self,
        session: OpenEnvSession,
        rules: OpenEnvRules,
        limits: ConversationLimits,
        reset: Mapping[str, Any],
        where: str,
        *,
        asked: bool,
    ) -> None:
        """``reset``: keywords of the environment's own; ``asked``: whether the problem's messages are a prompt, and not
        the first observation alone; ``where``: of which problem and environment, for messages."""
        self._session, self._rules, self.limits, self._reset = session, rules, limits, reset
        self._where, self._asked = where, asked
        self._tools = {tool.name: tool for tool in rules.tools}
        self.keep_special = bool(self._tools)
        self._begun, self._over = "", False
        self._rewards: list[float] = []
        self._steps = self._refused = 0
        self.calls = self.wrong_calls = 0

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        try:
            first = self._session.begin(**self._reset)
        except UserError as error:
            raise type(error)(f"{self._where}: {error}") from error
        if first.done:
            self._session.close()
            raise UserError(f"{self._where}: {self._session.url} was over before the first turn")
        words = self._rules.words(first.observation)
        self._begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        if not self._asked:
            if not words:
                self._session.close()
                raise UserError(
                    f"{self._where}: {self._session.url} says nothing at its reset; give prompts with --data"
                )
            return ({"role": "user", "content": words},)
        return with_observation(messages, words) if words else messages

    def reply(self, text: str) -> Reply:
        text, self._begun = self._begun + text, ""
        if not self._tools:
            answer = self._taken({self._rules.action: text}, "the environment does not take this action")
            return None if self._over else [{"role": "user", "content": answer.text}]
        replies: list[Message] = []
        for call in calls_in(text):
            replies.append({"role": "tool", "name": call.name or "unknown", "content": self._called(call)})
            if self._over:
                return None
        return replies or None

    def _called(self, call: Call) -> str:
        self.calls += 1
        fault = fault_of(call, self._tools)
        if fault:
            answer = told_error(fault)
        else:
            given = arguments_given(call, self._tools[call.name])
            answer = self._taken(
                {"type": "call_tool", "tool_name": call.name, "arguments": given}, "no such call can be made"
            )
        self.wrong_calls += answer.failed
        return answer.text

    def _taken(self, action: Mapping[str, Any], refusal: str) -> Answered:
        """What the world says to an action."""
        try:
            found = self._session.step(action)
        except ServerSaysNo as error:
            told = error.code == NOT_AN_ACTION or (error.code == RAISED and self._rules.on_error == "tell")
            if not told:
                self._session.close()
                mend = "; task.options.on_error=tell tells the policy" if error.code == RAISED else ""
                raise UserError(
                    f"{self._where}: {self._session.url} failed: {said(error, str)} ({error.code}){mend}"
                ) from error
            self._refused += 1
            return told_error(f"{said(error, str)}: {refusal}" if error.code == NOT_AN_ACTION else str(error))
        except UserError as error:
            raise type(error)(f"{self._where}: {error}") from error
        self._steps += 1
        if found.reward is not None:
            self._rewards.append(found.reward)
        self._over = found.done
        return self._result(found) if self._tools else Answered(self._rules.words(found.observation), failed=False)

    def _result(self, found: Observed) -> Answered:
        """Of a call."""
        seen = found.observation
        if seen.get("error"):
            error = seen["error"]
            return told_error(str(error.get("message", error) if isinstance(error, Mapping) else error))
        result, failed = seen.get("result", seen), False
        if isinstance(result, Mapping) and "data" in result:
            failed = bool(result.get("is_error"))
            result = result["data"]
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        return Answered(whole_characters(text)[:MOST_SAID], failed)

    def score(self, chat: Sequence[Message]) -> Score:
        self._over = True
        self._session.close()
        given = self._rewards
        earned = sum(given) if self._rules.reward == "sum" else (given or [0.0])[-1]
        return Score(earned, parts={"steps": float(self._steps), "refused": float(self._refused)})


def with_observation(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """A prompt with the first observation at its end, before the beginning of an answer.

    >>> with_observation([{"role": "user", "content": "Play."}], "You see a door.")[0]["content"]
    'Play.\\n\\nYou see a door.'
    """
    begun = messages[-1:] if messages[-1]["role"] == "assistant" else []
    asked = list(messages[: len(messages) - len(begun)])
    if asked and asked[-1]["role"] == "user":
        asked[-1] = {**asked[-1], "content": f"{asked[-1]['content']}\n\n{words}"}
    else:
        asked.append({"role": "user", "content": words})
    return (*asked, *begun)


def whole_characters(text: str) -> str:
    """Half a character is none that a tokenizer takes."""
    return text.encode("utf-8", "replace").decode()
