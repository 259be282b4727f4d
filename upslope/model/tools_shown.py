"""What a policy is told of its tools: by the chat template's own place for them, or in plain words where it has none.

The schema of a tool is read from its type hints and its docstring, as transformers and TRL do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers.utils import get_json_schema

from upslope.errors import UserError
from upslope.model.calls_shown import with_calls
from upslope.model.chat_template import DEVELOPER, NOTHING, ChatTemplate
from upslope.model.turns import PROBE, Refused
from upslope.tasks.tools.calls import CLOSE, OPEN, PLAIN_CALL
from upslope.tasks.tools.pythonic import CODE_FENCE, RESULT_FENCE
from upslope.tasks.tools.toolbox import Tool
from upslope.types import Message

PLAIN = (
    "You can use tools. To use one, write a line of this form and end your turn:\n\n"
    f'{PLAIN_CALL} NAME {{"PARAMETER": VALUE}}\n\nThe tools:\n\n'
)
"""How tools are told of where the template has no place for them; a line of JSON for each follows."""


@functools.lru_cache(maxsize=256)
def schema_of(tool: Tool) -> Mapping[str, Any]:
    """A tool's JSON schema. Raises UserError, which names the tool, if its hints or its docstring do not say enough."""
    try:
        made: Mapping[str, Any] = get_json_schema(tool.function)
    except Exception as error:  # it has several kinds, and a hint may be any object
        raise UserError(
            f"tool {tool.name!r} cannot be described: {str(error) or type(error).__name__}; give every parameter a "
            "type hint and a line under 'Args:' in the docstring"
        ) from error
    return {**made, "function": {**made["function"], "name": tool.name}}


class ToldTools:
    """Puts the tools among a chat template's options where the template can tell of them."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._tells: dict[tuple[str, ...], bool] = {}
        """Whether the template writes tools of these names, of those that were tried."""

    def __call__(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> tuple[Sequence[Message], Mapping[str, Any]]:
        """The chat, and the template's options, with the tools among these told as the template can tell them. Schemas
        that a row of data gave are left as they are."""
        tools = options.get("tools") or ()
        if not any(isinstance(tool, Tool) for tool in tools):
            return messages, options
        schemas = [(tool.schema or schema_of(tool)) if isinstance(tool, Tool) else tool for tool in tools]
        if self._hearing != "text":
            messages = (with_calls if self._hearing == "calls" else heard_from_user)(messages)
        told = {**options, "tools": schemas}
        if self._are_told(schemas, told):
            return messages, told
        plain = PLAIN + "\n".join(json.dumps(schema["function"]) for schema in schemas)
        return _before(messages, plain), {key: value for key, value in options.items() if key != "tools"}

    def _are_told(self, schemas: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> bool:
        names = tuple(schema["function"]["name"] for schema in schemas)
        if names not in self._tells:
            try:
                text = self._template([{"role": "user", "content": PROBE}], told, generate=True)
            except Refused:  # some say that they have no place for tools
                text = ""
            self._tells[names] = all(name in text for name in names)
        return self._tells[names]

    @functools.cached_property
    def _hearing(self) -> Literal["text", "calls", "user"]:
        """How the template writes what tools say: after turns that called them in their text, only after turns with
        ``tool_calls``, or not at all."""
        by_text = _probe(PROBE)
        if self._writes(by_text):
            return "text"
        call = f'{OPEN}{{"name": "tool", "arguments": {{"a": 1}}}}{CLOSE}'
        return "calls" if self._writes(with_calls(_probe(call))) else "user"

    def _writes(self, chat: Sequence[Message]) -> bool:
        try:
            written = self._template(chat, NOTHING, generate=True)
        except Refused:
            return False
        return all(message["content"] in written for message in chat if message["role"] == "tool")


def _probe(turn: str) -> list[Message]:
    """Two turns and what a tool says to each."""
    chat: list[Message] = [{"role": "user", "content": "a"}]
    for text in ("one told", "another told"):
        chat += [{"role": "assistant", "content": turn}, {"role": "tool", "name": "tool", "content": text}]
    return chat


def _before(messages: Sequence[Message], plain: str) -> list[Message]:
    """The chat with a text behind what its system says, or else before what its user says first."""
    first, role = messages[0], messages[0]["role"]
    if role not in ("system", DEVELOPER, "user"):
        return [{"role": "user", "content": plain}, *messages]
    both = (plain, first["content"]) if role == "user" else (first["content"], plain)
    return [{**first, "content": "\n\n".join(both)}, *messages[1:]]


def heard_from_user(messages: Sequence[Message]) -> list[Message]:
    """The same chat with the words of tools in a user's messages, one for all that were said in a row; in fences where
    they were called in such (Gemma's way)."""
    found: list[Message] = []
    fenced = False
    for message in messages:
        if message["role"] != "tool":
            found.append(message)
            fenced = message["role"] == "assistant" and CODE_FENCE in message["content"]
            continue
        told = f"{RESULT_FENCE}\n{message['content']}\n```" if fenced else message["content"]
        if found and found[-1].get("tools"):
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{told}"}
        else:
            found.append({"role": "user", "content": told, "tools": True})
    return [{key: value for key, value in message.items() if key != "tools"} for message in found]
