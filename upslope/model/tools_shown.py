"""What a policy is told of its tools: by the chat template's own place for them, or in plain words where it has none.

The schema of a tool is read from its type hints and its docstring, as transformers and TRL do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils import get_json_schema

from upslope.errors import UserError
from upslope.model.rendering import NOTHING, Renders
from upslope.model.turns import PROBE, Refused
from upslope.tasks.tools.calls import PLAIN_CALL
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


def with_tools(
    of: Renders, messages: Sequence[Message], options: Mapping[str, Any]
) -> tuple[Sequence[Message], Mapping[str, Any]]:
    """The chat, and the template's options, with the tools among these told as the template can tell them. Schemas that
    a row of data gave are left as they are."""
    tools = options.get("tools") or ()
    if not any(isinstance(tool, Tool) for tool in tools):
        return messages, options
    schemas = [schema_of(tool) if isinstance(tool, Tool) else tool for tool in tools]
    if not of.hears_tools:
        messages = heard_from_user(messages)
    told = {**options, "tools": schemas}
    names = tuple(schema["function"]["name"] for schema in schemas)
    if names not in of.tells_tools:
        try:
            text = of.rendered([{"role": "user", "content": PROBE}], told, generate=True)
        except Refused:  # some say that they have no place for tools
            text = ""
        of.tells_tools[names] = all(name in text for name in names)
    if of.tells_tools[names]:
        return messages, told
    plain = PLAIN + "\n".join(json.dumps(schema["function"]) for schema in schemas)
    place = 0 if messages[0]["role"] in ("system", "user") else None
    if place is None:
        messages = [{"role": "user", "content": plain}, *messages]
    else:
        both = (messages[0]["content"], plain) if messages[0]["role"] == "system" else (plain, messages[0]["content"])
        messages = [{**messages[0], "content": "\n\n".join(both)}, *messages[1:]]
    return messages, {key: value for key, value in options.items() if key != "tools"}


def hears_tools(of: Renders) -> bool:
    """Whether a chat template writes the messages of tools, after turns that called them in their text."""
    told = ("one told", "another told")
    chat: list[Message] = [{"role": "user", "content": "a"}]
    for text in told:
        chat += [{"role": "assistant", "content": PROBE}, {"role": "tool", "name": "tool", "content": text}]
    try:
        written = of.rendered(chat, NOTHING, generate=True)
    except Refused:
        return False
    return all(text in written for text in told)


def heard_from_user(messages: Sequence[Message]) -> list[Message]:
    """The same chat with the words of tools in a user's messages, one for all that were said in a row."""
    found: list[Message] = []
    for message in messages:
        if message["role"] != "tool":
            found.append(message)
            continue
        if found and found[-1].get("tools"):
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n{message['content']}"}
        else:
            found.append({"role": "user", "content": message["content"], "tools": True})
    return [{key: value for key, value in message.items() if key != "tools"} for message in found]
