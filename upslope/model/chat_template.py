"""A tokenizer's chat template: messages to text, and what it writes around them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError  # comes with torch; transformers renders with it
from transformers.utils.chat_template_utils import render_jinja_template

from upslope.model.rendered import TurnMarks, turn_marks
from upslope.model.turns import PROBE, Refused
from upslope.types import Message

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a tokenizer without a chat template gets: ``User: ...``, a blank line, ``Assistant:`` and a new line."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No further arguments for a chat template."""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template marks what the assistant says."""
DEVELOPER = "developer"
"""A role that few templates know; OpenAI's word for who is called ``system`` elsewhere."""


class ChatTemplate:
    """By a transformers tokenizer, or the plain one where it has none."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def source(self) -> str | None:
        """As Jinja; None where the tokenizer has none, or several by name."""
        own = getattr(self._tokenizer, "chat_template", None)
        return own if isinstance(own, str) else None

    def __call__(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING, *, generate: bool) -> str:
        """The chat as text, with a generation prompt if ``generate``. Raises Refused."""
        return self._text(self._with_roles(messages), options, generate=generate)

    def _text(self, messages: Sequence[Message], options: Mapping[str, Any], *, generate: bool) -> str:
        how = {
            "chat_template": None if getattr(self._tokenizer, "chat_template", None) else PLAIN_TEMPLATE,
            "add_generation_prompt": generate,
        }
        told = [in_blocks(m) for m in messages] if self.reads_blocks else [dict(m) for m in messages]
        with _refusals(messages):
            return self._applied(told, {**options, **how})

    def _applied(self, told: Sequence[Mapping[str, Any]], how: Mapping[str, Any] = NOTHING) -> str:
        return str(self._tokenizer.apply_chat_template(told, **{**how, "tokenize": False}))

    @cached_property
    def reads_blocks(self) -> bool:
        """Whether it reads content in blocks alone, as templates of models with pictures do: of content that is text
        it writes nothing, or refuses it."""
        if not getattr(self._tokenizer, "chat_template", None):
            return False

        def writes(message: Mapping[str, Any]) -> bool:
            try:
                with _refusals([message]):
                    return PROBE in self._applied([message])
            except Refused:
                return False

        said = {"role": "user", "content": PROBE}
        return not writes(said) and writes(in_blocks(said))

    def marked(
        self, messages: Sequence[Message], options: Mapping[str, Any]
    ) -> tuple[str, list[tuple[int, int]]] | None:
        """The chat as text, and where the assistant speaks in it, (begin, end) in characters; None: the template has
        no marks. Raises Refused."""
        if self.source is None or not MARKS.search(self.source):
            return None
        how = {"chat_template": self.source, "return_assistant_tokens_mask": True}
        told = self._with_roles(messages)
        with _refusals(messages):
            texts, spans = render_jinja_template(
                [[in_blocks(m) for m in told] if self.reads_blocks else told],
                **{**self._tokenizer.special_tokens_map, **options, **how},
            )
        return texts[0], [(begin, end) for begin, end in spans[0]]

    def _with_roles(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages, a developer's under the role that the template knows."""
        return [{**m, "role": self.developer} if m.get("role") == DEVELOPER else dict(m) for m in messages]

    @cached_property
    def developer(self) -> str:
        """The role under which a developer's messages are written: their own, or ``system`` where the template refuses
        that or leaves out what they say."""
        try:
            chat = ({"role": DEVELOPER, "content": PROBE}, {"role": "user", "content": "a"})
            return DEVELOPER if PROBE in self._text(chat, NOTHING, generate=False) else "system"
        except Refused:
            return "system"

    def around(self, messages: Sequence[Message], *, generate: bool) -> tuple[str, str]:
        """What it writes before and after the last ``PROBE`` of a chat; nothing where it refuses the chat."""
        try:
            before, found, after = self(messages, generate=generate).rpartition(PROBE)
        except Refused:  # a chat that is really asked for says why
            return "", ""
        return (before, after) if found else ("", "")

    def turn_marks(self, special: Sequence[str]) -> TurnMarks:
        """What it writes around a turn, ``special`` being the tokenizer's special tokens."""
        return turn_marks(*self.around(({"role": "user", "content": PROBE},), generate=True), special, self.apart)

    @property
    def apart(self) -> frozenset[str]:
        """Special tokens that say nothing of turns: start, end and padding of a text."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return frozenset(str(getattr(self._tokenizer, name, None)) for name in names)


def in_blocks(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with its text as one block.

    >>> in_blocks({"role": "user", "content": "Hi"})["content"]
    [{'type': 'text', 'text': 'Hi'}]
    """
    text = message.get("content")
    return {**message, "content": [{"type": "text", "text": text}]} if isinstance(text, str) else dict(message)


@dataclass
class OptionedTemplate:
    """A template with its options, as ``turns_of`` asks for it."""

    template: ChatTemplate
    options: Mapping[str, Any]
    ends: tuple[str, ...]
    stops: tuple[str, ...]

    def __call__(self, messages: Sequence[Message], *, generate: bool) -> str:
        return self.template(messages, self.options, generate=generate)

    def marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]] | None:
        return self.template.marked(messages, self.options)


@contextlib.contextmanager
def _refusals(messages: Sequence[Message]) -> Iterator[None]:
    """A template is a program, and may fail like any other. Raises Refused for whatever it raises."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        said = f"the model's chat template does not take {list(messages)!r:.600}: {kind}{error}"
        raise Refused(said, f"{kind}{error}") from error
