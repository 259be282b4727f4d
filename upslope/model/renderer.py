"""Between text and tokens: the only place where anything is tokenised or read back as text.

What a policy wrote is kept as the tokens it wrote and never tokenised again: other tokens can spell the same text, and
they would be scored in place of the ones that were drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from upslope.errors import UserError
from upslope.model.beginnings import begun
from upslope.model.chat_template import NOTHING, ChatTemplate, OptionedTemplate
from upslope.model.ends import find_end_ids
from upslope.model.known import require_embedded
from upslope.model.turns import PROBE, Turn, end_of_turn, require_named, turns_of
from upslope.plugins import said
from upslope.types import Message, Problem

ANCHOR = "\n"
"""Stands before text that is to be tokenised as if it followed other text; nothing merges with it."""
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
        """The tokens of the chat so far, up to where the assistant begins to write, or goes on with a message of its
        own that ends the chat; never empty. ``options`` are further arguments of the chat template.

        Raises UserError if the messages cannot be rendered, or make no tokens.
        """
        ...

    def holds_template(self, text: str) -> bool:
        """Whether a string is a prompt that the chat template has written already."""
        ...

    def raw_ids(self, text: str) -> tuple[int, ...]:
        """A string as it stands, behind one start token where the tokenizer or the template writes one; never empty.
        Raises UserError if it makes no tokens."""
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
    """The tokens of a problem's prompt, with what its row gives the chat template, or as it stands (``Problem.form``).
    Raises as ``prompt_ids``."""
    if is_raw(renderer, problem):
        if len(problem.messages) != 1 or problem.messages[0]["role"] != "user":
            told = f"task.template = raw is for prompts that are strings, and this is a chat of {len(problem.messages)}"
            raise UserError(f"{problem.id}: {told} messages; set task.template=auto")
        return renderer.raw_ids(problem.messages[0]["content"])
    if problem.template:
        return renderer.prompt_ids(problem.messages, problem.template)
    return renderer.prompt_ids(problem.messages)


def is_raw(renderer: Renderer, problem: Problem) -> bool:
    """Whether a problem's prompt is taken as it stands, without the chat template."""
    if problem.form == "auto" and problem.plain:
        return renderer.holds_template(problem.messages[0]["content"])
    return problem.form == "raw"


def reading(renderer: Renderer, *, special: bool) -> Renderer:
    """The renderer, its ``text`` with special tokens if ``special``."""
    return replace(renderer, keeps_special=True) if special and isinstance(renderer, ChatRenderer) else renderer


@dataclass(frozen=True)
class ChatRenderer:
    """By a transformers tokenizer and its chat template, or the plain one where it has none."""

    tokenizer: Any
    end_ids: tuple[int, ...]
    keeps_special: bool = field(default=False, kw_only=True)
    """Whether ``text`` spells special tokens out, but for the one that ends a response."""
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
        if messages and messages[-1]["role"] == "assistant":
            text = begun(messages, self._with(options))
        else:
            text = self.template(messages, options, generate=True)
        require_named(options.get("tools"), text, "the tools")
        ids = self._prompt(text)
        if not ids:
            raise UserError(f"the chat template makes no tokens of {list(messages)!r}; a prompt must not be empty")
        return ids

    def holds_template(self, text: str) -> bool:
        return self.template.turn_marks(self._ends).are_in(text)

    def raw_ids(self, text: str) -> tuple[int, ...]:
        ids, start = self._ids(text), self.tokenizer.bos_token_id
        if start is not None and ids[:1] != (start,) and self._starts:
            ids = (start, *ids)
        if not ids:
            raise UserError(f"the tokenizer makes no tokens of {text!r:.60}; a prompt must not be empty")
        return ids

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self._ids(text), self.end_ids[0])

    def shown_turns(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> list[Shown]:
        rows: list[tuple[list[int], list[bool]]] = []
        so_far = ""
        for turn in turns_of(messages, self._with(options)):
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
        if not self.keeps_special:
            return self._read(response, special=False)
        ends = len(response) > 0 and response[-1] in self.end_ids
        return self._read(response[:-1] if ends else response, special=True)

    def spelled(self, ids: Sequence[int]) -> str:
        """Tokens as text, special ones too: for people to read."""
        return self._read(ids, special=True)

    def _read(self, ids: Sequence[int], *, special: bool) -> str:
        found = self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        return str(found)

    def _ids(self, text: str) -> tuple[int, ...]:
        # Not verbose: transformers would warn of texts that are too long for the model, which is said where it matters.
        try:
            ids = tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        except Exception as error:  # half a character, a word that a vocabulary lacks: whatever its library raises
            raise UserError(f"the tokenizer cannot read {text!a:.60}: {said(error, str):.200}") from error
        require_embedded(self.tokenizer, ids, self.num_embedded)
        return ids

    def _prompt(self, text: str) -> tuple[int, ...]:
        """A rendered chat as tokens. A chat template writes its own start token."""
        plain = not self.tokenizer.chat_template and self.tokenizer.bos_token_id is not None
        return (self.tokenizer.bos_token_id, *self._ids(text)) if plain else self._ids(text)

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
        return ids if ids and ids[-1] in self.special_ids else (*ids, self.turn_end_id)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """All special tokens, and those that end a response."""
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset([*(i for i, token in known.items() if token.special), *self.end_ids])

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(self.spelled([i]) for i in sorted(self.special_ids))

    @cached_property
    def written_end(self) -> int | None:
        """The special token that the chat template writes after what an assistant says; None if it writes none."""
        chat = ({"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE})
        after = self.template.around(chat, generate=False)[1]
        ids = self._ids(end_of_turn(after, self._ends)) if after else ()
        return ids[-1] if ids else None

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    def _with(self, options: Mapping[str, Any]) -> OptionedTemplate:
        return OptionedTemplate(self.template, options, self._ends, tuple(self.spelled([i]) for i in self.end_ids))

    @cached_property
    def _starts(self) -> bool:
        """Whether a prompt begins with the start token: by the tokenizer itself, or by the template."""
        start = self.tokenizer.bos_token_id
        if start is None or not getattr(self.tokenizer, "chat_template", None):
            return start is not None
        before = self.template.around(({"role": "user", "content": PROBE},), generate=False)[0]
        return start in (*self.written_start, *self._ids(before)[:1])

    @cached_property
    def written_start(self) -> tuple[int, ...]:
        """What the tokenizer itself writes before any text: the start token, or nothing."""
        start = (self.tokenizer.bos_token_id,)
        return start if tuple(self.tokenizer("a").input_ids[:1]) == start else ()
