"""Between text and tokens: the only place where anything is tokenised or read back as text.

What a policy wrote is kept as the tokens it wrote and never tokenised again: other tokens can spell the same text, and
they would be scored in place of the ones that were drawn.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from jinja2 import TemplateError  # comes with torch; transformers renders with it
from transformers.utils.chat_template_utils import render_jinja_template

from upslope.errors import UserError
from upslope.model.ends import find_end_ids
from upslope.model.known import require_embedded
from upslope.model.turns import PROBE, Refused, Turn, end_of_turn, require_named, turns_of
from upslope.types import Message, Problem

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
"""What a tokenizer without a chat template gets: ``User: ...``, a blank line, ``Assistant:`` and a new line."""

ANCHOR = "\n"
"""Stands before text that is to be tokenised as if it followed other text; nothing merges with it."""
NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No further arguments for a chat template."""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""How a chat template marks what the assistant says."""
BEFORE = 8
"""Tokens before a turn that are read back with it, so that its first token is read as one that follows others."""


class Shown(NamedTuple):
    """Somebody else's words as tokens: what is read first, what follows, and which of that is imitated.

    >>> Shown((5, 6), (7, 2, 9, 8, 2), (True, True, False, True, True)).mask.count(True)
    4
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    mask: tuple[bool, ...]


class Renderer(Protocol):
    """Messages to the exact tokens a policy continues, and the tokens it wrote back to text."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response, at least one; a document ends with the first."""
        ...

    @property
    def turn_end_id(self) -> int:
        """The one of them that ends a demonstration: as the chat template ends a turn."""
        ...

    @property
    def start_ids(self) -> tuple[int, ...]:
        """What stands before a document, so that its first token is predicted too; not empty."""
        ...

    def prompt_ids(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> tuple[int, ...]:
        """The tokens of the chat so far, up to where the assistant begins to write; never empty. ``options`` are
        further arguments of the chat template.

        Raises UserError if the messages cannot be rendered, or make no tokens.
        """
        ...

    def response_ids(self, text: str) -> tuple[int, ...]:
        """A document as a policy would have to write it: its tokens, then the first end token. Not for what a policy
        has written."""
        ...

    def shown_turns(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> list[Shown]:
        """A chat to imitate: all its assistant turns but those with ``train: False``, each as a policy would have to
        write it after ``prompt_ids`` of what stands before it.

        Turns share a row as long as what stands before a turn begins with the row so far. A template that writes
        earlier turns otherwise than they were written (Qwen3 drops their thinking) makes several rows.

        Raises UserError if the messages cannot be rendered, or the tokenizer cannot write a turn.
        """
        ...

    def middle_ids(self, text: str) -> tuple[int, ...]:
        """Text that follows other text within a response, where the world speaks: its tokens and no others. Raises
        UserError if the tokenizer cannot say it without adding anything."""
        ...

    def text(self, response: Sequence[int]) -> str:
        """A response without its special tokens: what a reward reads."""
        ...


def prompt_of(renderer: Renderer, problem: Problem) -> tuple[int, ...]:
    """The tokens of a problem's prompt, with what its row gives the chat template. Raises as ``prompt_ids``."""
    if problem.template:
        return renderer.prompt_ids(problem.messages, problem.template)
    return renderer.prompt_ids(problem.messages)


@dataclass(frozen=True)
class ChatRenderer:
    """By a transformers tokenizer and its chat template, or the plain one where it has none."""

    tokenizer: Any
    end_ids: tuple[int, ...]
    num_embedded: int = field(default=sys.maxsize, kw_only=True)
    """Rows of the embedding that reads what is rendered: a token of a larger id is refused."""

    @staticmethod
    def of(tokenizer: Any, generation_config: Any = None, num_embedded: int = sys.maxsize) -> ChatRenderer:
        """Responses end with the tokenizer's end token, those of the model's generation config, and the one that the
        chat template ends a turn with. Raises UserError if there is none."""
        made = ChatRenderer(tokenizer, find_end_ids(tokenizer, generation_config), num_embedded=num_embedded)
        written = made.written_end
        return made if written is None or written in made.end_ids else replace(made, end_ids=(*made.end_ids, written))

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The start token, or the end token where there is none."""
        start = self.tokenizer.bos_token_id
        return (self.end_ids[0] if start is None else start,)

    @property
    def turn_end_id(self) -> int:
        """As the chat template ends a turn, or the first end token where it ends turns with none of them."""
        written = self.written_end
        return self.end_ids[0] if written is None or written not in self.end_ids else written

    def prompt_ids(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> tuple[int, ...]:
        ids = self._prompt(self._rendered(messages, options, generate=True))
        if not ids:
            raise UserError(f"the chat template makes no tokens of {list(messages)!r}; a prompt must not be empty")
        return ids

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self._ids(text), self.end_ids[0])

    def shown_turns(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> list[Shown]:
        rows: list[tuple[list[int], list[bool]]] = []
        so_far = ""
        for turn in turns_of(messages, _Rendering(self, options)):
            require_named(options.get("tools"), turn.prompt, "the tools")
            prompt = self._prompt(turn.prompt)
            if not prompt:
                raise UserError("the chat template makes no tokens of what stands before an assistant's turn")
            heard = self._heard(rows[-1][0], so_far, turn.prompt, prompt) if rows else None
            if heard is None:
                rows.append(([], []))
                heard = prompt
            ids, mask = rows[-1]
            response = self._written(turn, prompt)
            ids += [*heard, *response]
            mask += [*[False] * len(heard), *[True] * len(response)]
            so_far = turn.prompt + self.spelled(response)
        firsts = [mask.index(True) for _, mask in rows]
        return [
            Shown(tuple(ids[:first]), tuple(ids[first:]), tuple(mask[first:]))
            for (ids, mask), first in zip(rows, firsts, strict=True)
        ]

    def _heard(self, ids: Sequence[int], so_far: str, text: str, prompt: tuple[int, ...]) -> tuple[int, ...] | None:
        """What is read between a row so far and the turn that the prompt is of; None if the row is not how the prompt
        begins. Where only its tokens are others (the prompt's text was tokenised across the end of what was written),
        they stay as they were written."""
        if prompt[: len(ids)] == tuple(ids):
            return prompt[len(ids) :]
        between = self._ids(text[len(so_far) :]) if text.startswith(so_far) else ()
        near = ids[-BEFORE:]
        read = self.spelled([*near, *between])[len(self.spelled(near)) :]
        return between if between and read == text[len(so_far) :] else None

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
        return self._read(response, special=False)

    def spelled(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones too: for people to read."""
        return self._read(ids, special=True)

    def _read(self, ids: Sequence[int], *, special: bool) -> str:
        found = self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return str(found)

    def _ids(self, text: str) -> tuple[int, ...]:
        # Not verbose: transformers would warn of texts that are too long for the model, which is said where it matters.
        ids = tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        require_embedded(self.tokenizer, ids, self.num_embedded)
        return ids

    def _prompt(self, text: str) -> tuple[int, ...]:
        """A rendered chat as tokens. A chat template writes its own start token."""
        plain = not self.tokenizer.chat_template and self.tokenizer.bos_token_id is not None
        return (self.tokenizer.bos_token_id, *self._ids(text)) if plain else self._ids(text)

    def _rendered(self, messages: Sequence[Message], options: Mapping[str, Any], *, generate: bool) -> str:
        how = {
            "chat_template": None if getattr(self.tokenizer, "chat_template", None) else PLAIN_TEMPLATE,
            "add_generation_prompt": generate,
            "tokenize": False,
        }
        with _refusals(messages):
            return str(self.tokenizer.apply_chat_template([dict(m) for m in messages], **{**options, **how}))

    def _written(self, turn: Turn, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """A turn's tokens after those of its prompt, checked against its text: tokenised apart, as a policy writes
        after what it read, or else as part of a text. Raises UserError."""
        apart = self._ids(turn.written)
        near = prompt[-BEFORE:]
        start = len(self.spelled(near))
        read = self.spelled([*near, *apart])[start:]
        ids = apart
        if read != turn.written:
            whole = self._prompt(turn.prompt + turn.written)
            if whole[: len(prompt)] == prompt and self.spelled([*near, *whole[len(prompt) :]])[start:] == turn.written:
                ids = whole[len(prompt) :]
            # A vocabulary of words cannot say where spaces are; anything else that is not there is a fault.
            elif "".join(read.split()) != "".join(turn.written.split()):
                raise UserError(
                    f"the tokenizer cannot write {turn.written!r:.60} without changing it, it makes {read!r:.60}"
                )
        return ids if ids and ids[-1] in self._special_ids else (*ids, self.turn_end_id)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset([*(i for i, token in known.items() if token.special), *self.end_ids])

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(self.spelled([i]) for i in sorted(self._special_ids))

    @cached_property
    def written_end(self) -> int | None:
        """The special token that the chat template writes after what an assistant says; None if it writes none."""
        try:
            chat = ({"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE})
            after = self._rendered(chat, NOTHING, generate=False).rpartition(PROBE)[2]
        except Refused:  # a chat that is really asked for says why
            return None
        ids = self._ids(end_of_turn(after, self._ends))
        return ids[-1] if ids else None


class _Rendering:
    """A renderer's template with its options, as ``turns_of`` asks for it."""

    def __init__(self, of: ChatRenderer, options: Mapping[str, Any]) -> None:
        self._of, self._options, self.ends = of, options, of._ends
        self.stops = tuple(of.spelled([i]) for i in of.end_ids)

    def __call__(self, messages: Sequence[Message], *, generate: bool) -> str:
        return self._of._rendered(messages, self._options, generate=generate)

    def marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]] | None:
        tokenizer = self._of.tokenizer
        if not (isinstance(tokenizer.chat_template, str) and MARKS.search(tokenizer.chat_template)):
            return None
        how = {"chat_template": tokenizer.chat_template, "return_assistant_tokens_mask": True}
        with _refusals(messages):
            texts, spans = render_jinja_template(
                [[dict(m) for m in messages]], **{**tokenizer.special_tokens_map, **self._options, **how}
            )
        return texts[0], [(begin, end) for begin, end in spans[0]]


@contextlib.contextmanager
def _refusals(messages: Sequence[Message]) -> Iterator[None]:
    """A template is a program, and may fail like any other. Raises Refused for whatever it raises."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        said = f"the model's chat template does not take {list(messages)!r:.600}: {kind}{error}"
        raise Refused(said, f"{kind}{error}") from error
