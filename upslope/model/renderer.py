"""Between text and tokens: the only place where anything is tokenised or read back as text.

What a policy wrote is kept as the tokens it wrote and never tokenised again: other tokens can spell the same text, and
they would be scored in place of the ones that were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError  # comes with torch; transformers renders with it

from upslope.errors import UserError
from upslope.types import Message

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a tokenizer without a chat template gets: ``User: ...``, a blank line, ``Assistant:`` and a new line."""

ANCHOR = "\n"
"""Stands before text that is to be tokenised as if it followed other text; nothing merges with it."""


class Renderer(Protocol):
    """Messages to the exact tokens a policy continues, and the tokens it wrote back to text."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response, at least one; a demonstration ends with the first."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What stands before a document, so that its first token is predicted too; not empty."""
        ...

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The tokens of the chat so far, up to where the assistant begins to write; never empty.

        Raises UserError if the messages cannot be rendered, or make no tokens.
        """
        ...

    def response_ids(self, text: str) -> tuple[int, ...]:
        """A demonstration or document as a policy would have to write it: its tokens, then the end token. Not for what
        a policy has written."""
        ...

    def middle_ids(self, text: str) -> tuple[int, ...]:
        """Text that follows other text within a response, where the world speaks: its tokens and no others. Raises
        UserError if the tokenizer cannot say it without adding anything."""
        ...

    def text(self, response: Sequence[int]) -> str:
        """A response without its special tokens: what a reward reads."""
        ...


@dataclass(frozen=True)
class ChatRenderer:
    """By a transformers tokenizer and its chat template, or the plain one where it has none."""

    tokenizer: Any
    end_ids: tuple[int, ...]

    @staticmethod
    def of(tokenizer: Any, generation_config: Any = None) -> ChatRenderer:
        """Responses end with the tokenizer's end token and those of the model's generation config. Raises UserError if
        there is none."""
        return ChatRenderer(tokenizer, find_end_ids(tokenizer, generation_config))

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The start token, or the end token where there is none."""
        start = self.tokenizer.bos_token_id
        return (self.end_ids[0] if start is None else start,)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        template = None if self.tokenizer.chat_template else PLAIN_TEMPLATE
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages], add_generation_prompt=True, tokenize=False, chat_template=template
            )
        except Exception as error:  # a template is a program, and may fail like any other
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            raise UserError(
                f"the model's chat template does not take {list(messages)!r:.600}: {kind}{error}"
            ) from error
        ids = self._ids(text)
        if template is not None and self.tokenizer.bos_token_id is not None:
            ids = (self.tokenizer.bos_token_id, *ids)  # a chat template writes its own
        if not ids:
            raise UserError(f"the chat template makes no tokens of {list(messages)!r}; a prompt must not be empty")
        return ids

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self._ids(text), self.end_ids[0])

    def middle_ids(self, text: str) -> tuple[int, ...]:
        ids = self._ids(text)
        if self.text(ids) == text:
            return ids
        # Tokenizers made by SentencePiece put a space before whatever they are given: let them put it elsewhere.
        before, both = self._ids(ANCHOR), self._ids(ANCHOR + text)
        if both[: len(before)] == before and self.text(both) == self.text(before) + text:
            return both[len(before) :]
        # A vocabulary of words cannot say where spaces are; anything else that is not there is a fault.
        if "".join(self.text(ids).split()) != "".join(text.split()):
            raise UserError(f"the tokenizer cannot write {text!r} in the middle of a response without changing it")
        return ids

    def text(self, response: Sequence[int]) -> str:
        found = self.tokenizer.decode(list(response), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(found)

    def _ids(self, text: str) -> tuple[int, ...]:
        # Not verbose: transformers would warn of texts that are too long for the model, which is said where it matters.
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def find_end_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's, then those of the model's generation config.

    Read from the tokens themselves, never from padding: the pad token may be the end token.
    Raises UserError if there is none.
    """
    listed = getattr(generation_config, "eos_token_id", None)
    more = listed if isinstance(listed, list) else [listed]
    listed = [i for i in (tokenizer.eos_token_id, *more) if i is not None]
    wrong = [i for i in listed if type(i) is not int or i < 0]
    if wrong:
        raise UserError(
            f"the model's eos_token_id {wrong[0]!r} is no token; mend its generation_config.json or config.json"
        )
    found = dict.fromkeys(listed)
    if not found:
        raise UserError("the tokenizer has no end token (eos_token); set one in its tokenizer_config.json")
    return tuple(found)
