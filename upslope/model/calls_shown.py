"""Turns that called tools, for chat templates that want calls apart from the text (Mistral's, Gemma 3's pythonic one).

What the policy wrote is parsed into ``tool_calls``, with ids of nine signs as Mistral's template wants them, so that
the template can say what the tools answered in its own way. Where it then writes a call otherwise than the policy did
(with the id, say), the policy's own words are put back: they are what was sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upslope.model.turns import Rendering
from upslope.tasks.tools.call import call_id
from upslope.tasks.tools.calls import before_calls, calls_in
from upslope.types import Message


def with_calls(messages: Sequence[Message]) -> list[Message]:
    """The same chat, message by message, with ``tool_calls`` in the turns that tools answered, and their ids in the
    answers.

    >>> said = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    >>> chat = [{"role": "assistant", "content": said}, {"role": "tool", "name": "add", "content": "1"}]
    >>> [m.get("tool_call_id") or m["tool_calls"][0]["id"] for m in with_calls(chat)]
    ['call00000', 'call00000']
    """
    found: list[Message] = []
    num_calls = 0
    for place, message in enumerate(messages):
        if message["role"] == "tool" and "tool_call_id" not in message:
            found.append({**message, "tool_call_id": call_id(num_calls)})
            num_calls += 1
            continue
        answers = _answers(messages, place) if message["role"] == "assistant" and "tool_calls" not in message else []
        if not answers:
            found.append(message)
            continue
        calls = calls_in(message["content"])
        functions: list[dict[str, Any]] = [{"name": call.name, "arguments": dict(call.arguments)} for call in calls]
        functions += [{"name": "", "arguments": {}}] * (len(answers) - len(calls))
        made = [
            {
                "id": call_id(num_calls + n),
                "type": "function",
                "function": {**function, "name": function["name"] or answer.get("name", "unknown")},
            }
            for n, (function, answer) in enumerate(zip(functions, answers, strict=False))
        ]
        found.append({**message, "content": before_calls(message["content"]) if calls else "", "tool_calls": made})
    return found


def _answers(messages: Sequence[Message], place: int) -> list[Message]:
    """What tools say right after a message."""
    found = []
    for message in messages[place + 1 :]:
        if message["role"] != "tool":
            break
        found.append(message)
    return found


def as_written(render: Rendering, text: str, chat: Sequence[Message], written: Mapping[int, str]) -> str:
    """The chat as ``text`` with what was really ``written`` in place of what the template made of these turns, by their
    place; as it is where the template does not write a turn in one piece."""
    for place in sorted(written, reverse=True):
        before, through = render(chat[:place], generate=True), render(chat[: place + 1], generate=False)
        if text.startswith(through) and through.startswith(before):
            turn = through[len(before) :].rstrip()
            end = max((each for each in render.ends if turn.endswith(each)), key=len, default="")
            text = before + written[place] + end + through[len(before) + len(turn) :] + text[len(through) :]
    return text
