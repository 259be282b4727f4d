"""From chat messages to the exact tokens a policy continues, and from demonstrations to the tokens it should write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upslope.errors import UserError
from upslope.types import Message

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a tokenizer without a chat template gets: ``User: ...``, a blank line, ``Assistant:`` and a new line."""


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> tuple[int, ...]:
    """The tokens of the chat so far, up to where the assistant begins to write."""
    template = None if tokenizer.chat_template else PLAIN_TEMPLATE
    text = tokenizer.apply_chat_template(
        [dict(m) for m in messages], add_generation_prompt=True, tokenize=False, chat_template=template
    )
    ids = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    if template is not None and tokenizer.bos_token_id is not None:
        ids = (tokenizer.bos_token_id, *ids)  # a chat template writes its own
    if not ids:
        raise UserError(f"the chat template makes no tokens of {list(messages)!r}; a prompt must not be empty")
    return ids


def response_ids(tokenizer: Any, text: str, end: int) -> tuple[int, ...]:
    """A demonstration or document as a policy would have to write it: its tokens, then the end token."""
    return (*tokenizer(text, add_special_tokens=False).input_ids, end)


def start_ids(tokenizer: Any, end: int) -> tuple[int, ...]:
    """What stands before a document, so that its first token is predicted too: the start token, else the end."""
    return (tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end,)


def end_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's, then those of the model's generation config.

    Read from the tokens themselves, never from padding: the pad token may be the end token.
    Raises UserError if there is none.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    more = listed if isinstance(listed, list) else [listed]
    found = dict.fromkeys(i for i in (tokenizer.eos_token_id, *more) if i is not None)
    if not found:
        raise UserError("the tokenizer has no end token (eos_token); set one in its tokenizer_config.json")
    return tuple(found)
