"""By a tokenizer and its chat template: the only place where anything is tokenised or read back as text."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from upslope.errors import UserError
from upslope.model.beginnings import begun
from upslope.model.calls_shown import as_written
from upslope.model.chat_template import NOTHING, ChatTemplate, OptionedTemplate
from upslope.model.continued import Continued, continued
from upslope.model.ends import find_end_ids
from upslope.model.known import require_embedded
from upslope.model.rendered import TurnMarks, header_of, longest_words
from upslope.model.renderer import Renderer, Shown
from upslope.model.tools_shown import ToldTools
from upslope.model.turns import PROBE, Turn, end_of_turn, require_named, turns_of
from upslope.plugins import said
from upslope.types import Message

ANCHOR = "\n"
"""Stands before text that is to be tokenised as if it followed other text; nothing merges with it."""
BEFORE = 8
"""Tokens before a turn that are read back with it, so that its first token is read as one that follows others."""


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
        messages, options = self._told(messages, options)
        ids = self.whole_ids(self._prompt(messages, options))
        if not ids:
            raise UserError(f"the chat template makes no tokens of {list(messages)!r}; a prompt must not be empty")
        return ids

    def holds_template(self, text: str) -> bool:
        return self.marks.are_in(text)

    @cached_property
    def marks(self) -> TurnMarks:
        """What the chat template writes around a turn. An end token that a config names may be any word; only special
        ones say that a template was here."""
        return self.template.turn_marks([self.spelled([i]) for i in sorted(self._special)])

    def words_in(self, text: str) -> tuple[int, int]:
        special = [self.spelled([i]) for i in sorted(self.special_ids)]
        own = [self.marks.user, self.marks.assistant]
        apart = [*special, *(() if self.marks.tokens or not all(own) else own)]
        before = self.template.around(({"role": "user", "content": PROBE},), generate=True)[0]
        return longest_words(text, apart, header_of(before, apart) if self.holds_template(text) else "")

    def raw_ids(self, text: str) -> tuple[int, ...]:
        ids, start = self.ids(text), self.tokenizer.bos_token_id
        if start is not None and ids[:1] != (start,) and self._starts:
            ids = (start, *ids)
        if not ids:
            raise UserError(f"the tokenizer makes no tokens of {text!r:.60}; a prompt must not be empty")
        return ids

    def response_ids(self, text: str) -> tuple[int, ...]:
        return (*self.ids(text), self.end_ids[0])

    def shown_turns(self, messages: Sequence[Message], options: Mapping[str, Any] = NOTHING) -> list[Shown]:
        messages, options = self._told(messages, options)
        rows: list[tuple[list[int], list[bool]]] = []
        so_far = ""
        for turn in turns_of(messages, self._with(options)):
            require_named(options.get("tools"), turn.prompt, "the tools")
            prompt = self.whole_ids(turn.prompt)
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
        between = self.ids(text[len(so_far) :]) if text.startswith(so_far) else ()
        near = ids[-BEFORE:]
        read = self.spelled([*near, *between])[len(self.spelled(near)) :]
        return between if between and read == text[len(so_far) :] else None

    def next_turn(
        self,
        chat: Sequence[Message],
        new: Sequence[Message],
        row: Sequence[int],
        options: Mapping[str, Any] = NOTHING,
    ) -> Continued:
        said = [*chat, *new]
        told, options = self._told(said, options)
        text, ahead = self._prompt(told, options), len(told) - len(said)
        own = {i + ahead: m["content"] for i, m in enumerate(said) if "tool_calls" not in m}
        written = {i: own[i] for i, message in enumerate(told) if i in own and "tool_calls" in message}
        return continued(self, as_written(self._with(options), text, told, written), row)

    def middle_ids(self, text: str) -> tuple[int, ...]:
        ids = self.ids(text)
        if self.text(ids) == text:
            return ids
        # Tokenizers made by SentencePiece put a space before whatever they are given: let them put it elsewhere.
        before, both = self.ids(ANCHOR), self.ids(ANCHOR + text)
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

    def ids(self, text: str) -> tuple[int, ...]:
        # Not verbose: transformers would warn of texts that are too long for the model, which is said where it matters.
        try:
            ids = tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        except Exception as error:  # half a character, a word that a vocabulary lacks: whatever its library raises
            raise UserError(f"the tokenizer cannot read {text!a:.60}: {said(error, str):.200}") from error
        require_embedded(self.tokenizer, ids, self.num_embedded)
        return ids

    def whole_ids(self, text: str) -> tuple[int, ...]:
        """A rendered chat as tokens. A chat template writes its own start token."""
        plain = not self.tokenizer.chat_template and self.tokenizer.bos_token_id is not None
        return (self.tokenizer.bos_token_id, *self.ids(text)) if plain else self.ids(text)

    def _written(self, turn: Turn, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """A turn's tokens after those of its prompt, checked against its text: tokenised apart, as a policy writes
        after what it read, or else as part of a text. Raises UserError."""
        apart = self.ids(turn.written)
        near = prompt[-BEFORE:]
        start = len(self.spelled(near))
        read = self.spelled([*near, *apart])[start:]
        ids = apart
        if read != turn.written:
            whole = self.whole_ids(turn.prompt + turn.written)
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
        return self._special.union(self.end_ids)

    @cached_property
    def _special(self) -> frozenset[int]:
        known = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(i for i, token in known.items() if token.special)

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        return tuple(self.spelled([i]) for i in sorted(self.special_ids))

    @cached_property
    def written_end(self) -> int | None:
        """The special token that the chat template writes after what an assistant says; None if it writes none."""
        chat = ({"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE})
        after = self.template.around(chat, generate=False)[1]
        ids = self.ids(end_of_turn(after, self._ends)) if after else ()
        return ids[-1] if ids else None

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    def _prompt(self, messages: Sequence[Message], options: Mapping[str, Any]) -> str:
        """The chat as text, up to where the assistant begins to write or goes on."""
        if messages and messages[-1]["role"] == "assistant":
            text = begun(messages, self._with(options))
        else:
            text = self.template(messages, options, generate=True)
        require_named(options.get("tools"), text, "the tools")
        return text

    @cached_property
    def _told(self) -> ToldTools:
        """Puts tools where the chat template tells of them."""
        return ToldTools(self.template)

    def _with(self, options: Mapping[str, Any]) -> OptionedTemplate:
        return OptionedTemplate(self.template, options, self._ends, tuple(self.spelled([i]) for i in self.end_ids))

    @cached_property
    def _starts(self) -> bool:
        """Whether a prompt begins with the start token: by the tokenizer itself, or by the template."""
        start = self.tokenizer.bos_token_id
        if start is None or not getattr(self.tokenizer, "chat_template", None):
            return start is not None
        before = self.template.around(({"role": "user", "content": PROBE},), generate=False)[0]
        return start in (*self.written_start, *self.ids(before)[:1])

    @cached_property
    def written_start(self) -> tuple[int, ...]:
        """What the tokenizer itself writes before any text: the start token, or nothing."""
        start = (self.tokenizer.bos_token_id,)
        return start if tuple(self.tokenizer("a").input_ids[:1]) == start else ()
