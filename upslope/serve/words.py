"""Between what a client says and tokens."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from upslope.errors import UserError
from upslope.model.pieces import UNREADABLE
from upslope.model.policy import Policy
from upslope.serve.options import Declined, tokens
from upslope.tasks.conversation import chat_of, options_of, prompt_in


class Words:
    """A policy's renderer, for several threads: tokenizers are not made for more than one."""

    def __init__(self, policy: Policy) -> None:
        self._renderer, self._spell = policy.renderer, policy.tokenizer.decode
        self._vocabulary = policy.vocabulary
        self._start = policy.renderer.written_start
        self._lock = threading.Lock()
        self.spelled = functools.lru_cache(maxsize=2**16)(self._spelled)

    def text(self, ids: Sequence[int]) -> str:
        """Without special tokens."""
        with self._lock:
            return self._renderer.text(ids)

    def _spelled(self, token: int) -> str:
        """One token as text, special ones too; one that is no text by itself (a part of a character) by its number."""
        with self._lock:
            found = str(self._spell([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return f"token_id:{token}" if UNREADABLE in found or not found else found

    def chat(self, messages: Any, template: Mapping[str, Any]) -> tuple[int, ...]:
        """The tokens of a chat, up to where the assistant begins. Raises Declined."""
        try:
            chat = chat_of(_flat(messages), "messages")
            options = options_of({"chat_template_kwargs": dict(template)}, "the request") if template else {}
            with self._lock:
                return self._renderer.prompt_ids(prompt_in(chat), options)
        except UserError as error:
            raise Declined(str(error), "messages") from None

    def prompts(self, given: Any) -> list[tuple[int, ...]]:
        """The prompts of a completion: a text, a list of texts, a list of tokens, a list of such lists. Raises
        Declined."""
        if isinstance(given, list) and given and all(isinstance(each, list) for each in given):
            return [self.known(tokens(each, "prompt")) for each in given]
        if isinstance(given, list) and given and all(type(each) is int for each in given):
            return [self.known(tokens(given, "prompt"))]
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
            raise Declined("prompt must be a text, a list of texts, token ids, or a list of such lists", "prompt")
        with self._lock:
            return [self._plain(each) for each in texts]

    def _plain(self, text: str) -> tuple[int, ...]:
        """A text that is no chat, as the tokenizer reads it by itself; an empty one is where documents begin."""
        return (*self._start, *self._renderer.response_ids(text)[:-1]) or self._renderer.start_ids

    def known(self, ids: tuple[int, ...], param: str = "prompt") -> tuple[int, ...]:
        """Raises Declined for no tokens, and for one that the model does not have."""
        if not ids:
            raise Declined(f"{param} holds no tokens", param)
        wrong = next((token for token in ids if not 0 <= token < self._vocabulary), None)
        if wrong is not None:
            raise Declined(f"{param}: token {wrong} is not among the model's {self._vocabulary}", param)
        return ids


def _flat(messages: Any) -> Any:
    """Messages whose content is a list of texts have one text instead. Raises Declined for other content."""
    if not isinstance(messages, list):
        return messages
    return [_flat_message(message) if isinstance(message, dict) else message for message in messages]


def _flat_message(message: Mapping[str, Any]) -> dict[str, Any]:
    parts = message.get("content")
    if not isinstance(parts, list):
        return dict(message)
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise Declined(f"content of type {kind!r:.40} is not supported; this model reads text", "messages")
    return {**message, "content": "".join(part["text"] for part in parts)}
