"""Chats in a row of data: messages with what chat templates read of them, tools, and which turns are imitated.

A message may also be ``{"from": "human", "value": ...}``, as ShareGPT has it (``SPEAKERS``).
``content`` is text, or a list of blocks ``{"type": "text", "text": ...}``, which are put together. Besides it and
``role`` a message may have ``name``, ``tool_calls``, ``tool_call_id`` and ``reasoning_content``, as the chat templates
of transformers read them, and, of an assistant, ``train: false`` or ``weight: 0`` (OpenAI's word for it): read, never
imitated; or ``prefix: true`` in the last message: the beginning of an answer, which attempts go on with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.errors import UserError, nearest
from upslope.types import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXTS = ("name", "tool_call_id", "reasoning_content")
"""Keys of a message that hold text."""
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "observation": "tool",
}  # fmt: skip
"""Roles by what ShareGPT's form calls them: ``{"from": ..., "value": ...}``."""
KEYS = ("role", "content", "tool_calls", *TEXTS, "train", "weight", "prefix")
OPEN_TAG = re.compile(r"<[A-Za-z][\w-]*>\s*\Z")
"""No answer ends so: whoever opens a tag goes on."""
WRITTEN, PYTHONS = re.compile(r"\s*\[\s*\{"), re.compile(r"\s*\[\s*\{\s*'(role|content|from|value)'\s*:")
"""How a list of messages begins as text, and as Python writes it."""
OURS = (
    *("conversation", "messages", "tools", "documents", "chat_template", "tokenize", "padding", "truncation"),
    *("add_generation_prompt", "continue_final_message", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
)
"""Arguments of a chat template that are not for a row to give."""


def chat_of(value: Any, where: str) -> tuple[Message, ...]:
    """Messages as a chat template takes them; an assistant turn that is not to be imitated has ``train: False``. Raises
    UserError that begins with ``where``."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise UserError(
            f"{where}: a chat must be a non-empty list of {{'role': ..., 'content': ...}}, not {value!r:.60}"
        )
    return tuple(_message(message, where) for message in value)


def chat_in(value: Any, what: str) -> Any:
    """The messages of a chat that is written as JSON, as a cell of a CSV file has it; anything else as it is. Raises
    UserError, beginning with ``what``, for one that is written as Python writes it.

    >>> chat_in('[{"role": "user", "content": "Hi"}]', "row 1"), chat_in("[1, 2]", "row 1")
    ([{'role': 'user', 'content': 'Hi'}], '[1, 2]')
    """
    if not isinstance(value, str) or not WRITTEN.match(value):
        return value
    found = _json(value)
    if isinstance(found, list) and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in found):
        return found
    if found is value and PYTHONS.match(value):
        raise UserError(f"{what} is a chat as Python writes it ({value!r:.40}); write it with json.dumps")
    return value


def read_only(chat: Sequence[Message]) -> tuple[Message, ...]:
    """The chat with every assistant turn left out of imitation."""
    return tuple({**m, "train": False} if m["role"] == "assistant" else m for m in chat)


def prompt_in(chat: Sequence[Message]) -> tuple[Message, ...]:
    """The chat as it is read, whatever of it is imitated."""
    return tuple({key: value for key, value in m.items() if key not in ("train", "prefix")} for m in chat)


def is_beginning(message: Message) -> bool:
    """Whether an assistant's message that ends a chat is the beginning of an answer, to be gone on with: it says so
    (``prefix``), or it ends with a tag that it opens (``<think>``).

    >>> is_beginning({"role": "assistant", "content": "Let me see.\\n<think>"})
    True
    """
    if "prefix" in message:
        return bool(message["prefix"])
    return message["role"] == "assistant" and OPEN_TAG.search(message["content"]) is not None


def until_answered(chat: Sequence[Message]) -> tuple[Message, ...]:
    """What stands before the first imitated turn that answers a user: two conversations that begin so are on the same
    side of a division. The whole chat where there is none."""
    asked = False
    for place, message in enumerate(chat):
        if asked and message["role"] == "assistant" and message.get("train", True):
            return tuple(chat[:place])
        asked = asked or message["role"] == "user"
    return tuple(chat)


def options_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a row gives its chat template besides messages: the columns ``tools`` and ``chat_template_kwargs``."""
    options: dict[str, Any] = {}
    if row.get("chat_template_kwargs") is not None:
        options |= template_options(_json(row["chat_template_kwargs"]), f"{where}: chat_template_kwargs")
    tools = _json(row.get("tools"))
    if tools:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise UserError(f"{where}: tools must be a list of JSON schemas, not {tools!r:.60}")
        options["tools"] = _filled(tools)
    return options


def template_options(given: Any, what: str) -> dict[str, Any]:
    """Further arguments for a chat template. Raises UserError, beginning with ``what``, for what is no table, and for
    an argument that is not to be given."""
    if not isinstance(given, Mapping):
        raise UserError(f"{what} must be an object, not {given!r:.60}")
    taken = [key for key in OURS if key in given]
    if taken:
        raise UserError(f"{what} cannot set {taken[0]!r}; drop it")
    filled: dict[str, Any] = _filled(dict(given))
    return filled


def _message(message: Mapping[str, Any], where: str) -> Message:
    if "role" not in message and isinstance(message.get("from"), str) and "value" in message:
        message = _of_sharegpt(message, where)
    role, content, calls = (message.get(key) for key in ("role", "content", "tool_calls"))
    if role not in ROLES:
        raise UserError(f"{where}: message role {role!r}{nearest(str(role), ROLES)}")
    if content is None and calls:
        content = ""
    if isinstance(content, list):
        content = _joined(content, where)
    if not isinstance(content, str):
        raise UserError(f"{where}: message content must be text, not {type(content).__name__}")
    extra = [key for key, item in message.items() if key not in KEYS and item is not None and item not in ("", [], {})]
    if extra:
        raise UserError(f"{where}: message key {extra[0]!r} is not supported; known: {', '.join(KEYS)}")
    made: dict[str, Any] = {"role": role, "content": content}
    for key in TEXTS:
        if message.get(key) is not None:
            if not isinstance(message[key], str):
                raise UserError(f"{where}: message key {key!r} must be text, not {type(message[key]).__name__}")
            made[key] = message[key]
    if calls:
        if role != "assistant":
            raise UserError(f"{where}: a {role} message has tool_calls; only an assistant calls tools")
        made["tool_calls"] = _calls(calls, where)
    if message.get("prefix") is not None:
        if role != "assistant" or not isinstance(message["prefix"], bool):
            raise UserError(f"{where}: message key 'prefix' must be true or false, in an assistant's message")
        made["prefix"] = message["prefix"]
    if not _is_imitated(message, role, where):
        made["train"] = False
    return made


def _of_sharegpt(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    speaker = message["from"]
    if speaker not in SPEAKERS:
        raise UserError(f"{where}: message from {speaker!r}{nearest(speaker, SPEAKERS)}")
    rest = {key: item for key, item in message.items() if key not in ("from", "value")}
    return {"role": SPEAKERS[speaker], "content": message["value"], **rest}


def _joined(blocks: Sequence[Any], where: str) -> str:
    """The text of content in blocks, as chat templates that take blocks write them: one after the other."""
    texts = []
    for block in blocks:
        text = block.get("text") if isinstance(block, Mapping) else block
        if not isinstance(text, str):
            kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
            raise UserError(
                f"{where}: message content has a block of the kind {kind!r}; only text can be read, "
                '{"type": "text", "text": ...}'
            )
        texts.append(text)
    return "".join(texts)


def _is_imitated(message: Mapping[str, Any], role: str, where: str) -> bool:
    train, weight = message.get("train"), message.get("weight")
    if train is None and weight is None:
        return True
    if train is not None and weight is not None:
        raise UserError(f"{where}: a message has both train and weight; keep one of them")
    if train is not None and not isinstance(train, bool):
        raise UserError(f"{where}: message key 'train' must be true or false, not {train!r:.40}")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise UserError(f"{where}: message key 'weight' must be 0 or 1, not {weight!r:.40}")
    counts = bool(weight) if train is None else train
    if role != "assistant" and counts:
        raise UserError(f"{where}: a {role} message is never imitated; drop its train or weight")
    return counts or role != "assistant"


def _calls(calls: Any, where: str) -> list[Any]:
    """Calls as templates read them: arguments as an object, which OpenAI's are the JSON of."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f"{where}: tool_calls must be a list of objects, not {calls!r:.60}")
    made = []
    for call in _filled(calls):
        inner = call.get("function") if isinstance(call.get("function"), dict) else call
        if not isinstance(inner.get("name"), str):
            raise UserError(f"{where}: a tool call needs a function with a name; it is {call!r:.60}")
        read = _json(inner.get("arguments"))
        if isinstance(read, dict):
            inner["arguments"] = read
        made.append(call)
    return made


def _filled(value: Any) -> Any:
    """Without keys whose value is None: Parquet gives every object of a column the keys of all of them."""
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _json(value: Any) -> Any:
    """The value of JSON text; anything else, and text that is none, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
