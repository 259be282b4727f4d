"""The world of an attempt at a multi-turn environment of verifiers: the environment's own rollout, whose model is the
policy.

The rollout runs on the process's event loop. Its client hands every prompt over and waits for the turn. What is new in
a prompt since the last turn is the world's reply: it is rendered behind the tokens so far, and nothing is tokenised
again. An environment that changes what was said before is refused.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import logging
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from upslope.errors import UserError
from upslope.plugins import said
from upslope.tasks.awaited import begun_on_loop
from upslope.tasks.conversation import chat_of
from upslope.tasks.episode import ConversationLimits, Episode, Reply
from upslope.tasks.tools.call import Call, call_id
from upslope.tasks.tools.calls import before_calls, calls_in
from upslope.tasks.tools.toolbox import Tool, arguments_given, fault_of
from upslope.tasks.verifiers_client import turns_client
from upslope.types import Message, Score

MOMENT = 0.05
"""Seconds between two looks at whether a rollout is over."""
RolloutOf = Callable[[Any], Any]
"""The environment's rollout of a row with a client, as a coroutine."""


class AskedTurn(NamedTuple):
    """A prompt, and where the turn is waited for: ``(content, calls, cut)``, or None where there will be none."""

    messages: Sequence[Any]
    answer: concurrent.futures.Future[Any]


class VerifiersWorld(Episode):
    """See above. It begins with the conversation, and judges it at its end."""

    stops: Sequence[str] = ()
    limits = ConversationLimits()

    def __init__(
        self, rollout: RolloutOf, judge: Callable[[Mapping[str, Any]], Score], where: str, tools: Sequence[Tool]
    ) -> None:
        """``where``: of which problem and environment, for messages."""
        self._rollout, self._judge, self._where = rollout, judge, where
        self._tools, self.keep_special = {tool.name: tool for tool in tools}, bool(tools)
        self._asked: queue.SimpleQueue[AskedTurn] = queue.SimpleQueue()
        self._run: concurrent.futures.Future[Any] | None = None
        self._now: AskedTurn | None = None
        self._said: list[tuple[str, str]] = []
        """The last prompt and the turn that followed, by role and text."""
        self._names: dict[str, str] = {}
        self._over = False
        self.calls = self.wrong_calls = 0

    def opening(self, messages: Sequence[Message]) -> Sequence[Message]:
        self._run = begun_on_loop(self._rollout(turns_client()(self._hand_over)))
        asked = self._next()
        if asked is None:
            raise UserError(f"{self._where}: it was over before the first turn")
        return self._new(asked)

    def _hand_over(self, messages: Sequence[Any]) -> concurrent.futures.Future[Any]:
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if self._over:
            answer.set_result(None)
        else:
            self._asked.put(AskedTurn(messages, answer))
        return answer

    def reply(self, text: str) -> Reply:
        self._answer(text, cut=False)
        asked = self._next()
        return None if asked is None else self._new(asked)

    def score(self, chat: Sequence[Message]) -> Score:
        self._over = True
        if self._now is not None and not self._now.answer.done():
            last = chat[-1] if chat else None
            if last is not None and last["role"] == "assistant":
                self._answer(last["content"], cut=True)  # it was cut, and never handed over
            else:
                self._now.answer.set_result(None)
        while (asked := self._next()) is not None:
            asked.answer.set_result(None)
        assert self._run is not None, "it was opened"
        return self._judge(self._run.result())

    def _answer(self, text: str, *, cut: bool) -> None:
        assert self._now is not None, "it was asked"
        calls = calls_in(text) if self._tools else []
        made = [(call_id(self.calls + n), call.name, self._arguments(call)) for n, call in enumerate(calls)]
        self._names.update({each: name for each, name, _ in made})
        self.calls += len(calls)
        self.wrong_calls += sum(bool(fault_of(call, self._tools)) for call in calls)
        content = before_calls(text) if calls else text
        self._said.append(("assistant", content.strip()))
        self._now.answer.set_result((content, made, cut))

    def _arguments(self, call: Call) -> str:
        """As the JSON of an object; of a call that is none, what is wrong with it, which is no JSON."""
        return call.fault or json.dumps(arguments_given(call, self._tools.get(call.name)))

    def _next(self) -> AskedTurn | None:
        """The next prompt; None: the rollout is over. Raises UserError for one that failed."""
        assert self._run is not None, "it was opened"
        while True:
            with contextlib.suppress(queue.Empty):
                self._now = self._asked.get(timeout=MOMENT)
                return self._now
            if self._run.done() and self._asked.empty():
                error = self._run.exception()
                if error is not None:
                    raise UserError(f"{self._where} failed: {type(error).__name__}: {said(error, str)}") from error
                return None

    def _new(self, asked: AskedTurn) -> list[Message]:
        """What a prompt says beyond what was said already. Raises UserError where that is no longer there."""
        given = [{"content": "", **plain_message(m), "name": self._name(m)} for m in asked.messages]
        chat = chat_of([{k: v for k, v in m.items() if k in KEPT and v is not None} for m in given], self._where)
        known = [(message["role"], message["content"].strip()) for message in chat]
        same = [a == b for a, b in zip(known, self._said, strict=False)]
        if len(known) < len(self._said) or not all(same):
            raise UserError(
                f"{self._where} changes what was said before (message {[*same, False].index(False) + 1}); only "
                "environments that add to a conversation are supported"
            )
        begin = len(self._said)
        self._said = known
        return list(chat[begin:])

    def _name(self, message: Any) -> str | None:
        return self._names.get(plain_message(message).get("tool_call_id") or "")


KEPT = ("role", "content", "name")
"""Of a message; what it called stands in the policy's own words already."""


def plain_message(message: Any) -> dict[str, Any]:
    """A message with no more than it says: rows of a data set have every key that any message has."""
    given = message if isinstance(message, Mapping) else message.model_dump()
    return {key: value for key, value in given.items() if value is not None}


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """What the library says of errors meanwhile: a reward function that raises is 0 to it, and a line in the log."""
    errors: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    logger, ear = logging.getLogger("verifiers"), Ear(logging.ERROR)
    logger.addHandler(ear)
    try:
        yield errors
    finally:
        logger.removeHandler(ear)
