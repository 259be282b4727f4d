"""Between text and tokens: what everybody asks of it (``ChatRenderer`` in chat_renderer.py is the one there is).

What a policy wrote is kept as the tokens it wrote and never tokenised again: other tokens can spell the same text, and
they would be scored in place of the ones that were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from upslope.errors import UserError
from upslope.model.chat_template import NOTHING
from upslope.model.continued import Continued
from upslope.types import Message, Problem


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

    @property
    def num_embedded(self) -> int:
        """Rows of the model's embedding: a token has a number below it."""
        ...

    @property
    def written_start(self) -> tuple[int, ...]:
        """What the tokenizer itself writes before any text: the start token, or nothing."""
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

    def words_in(self, text: str) -> tuple[int, int]:
        """(begin, end) of the longest words in such a string that are neither special tokens nor the template's; of a
        string without any template, all that stands between its special tokens."""
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

    def next_turn(
        self,
        chat: Sequence[Message],
        new: Sequence[Message],
        row: Sequence[int],
        options: Mapping[str, Any] = NOTHING,
    ) -> Continued:
        """What a policy reads before its next turn. ``chat`` ends with the turn that it just wrote, ``new`` is what
        the world says to that, ``row`` are the tokens read and written so far, that turn's end included.

        Raises UserError if the messages cannot be rendered.
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


def known_tokens(renderer: Renderer, reply: Sequence[Any]) -> tuple[int, ...]:
    """The token ids in an episode's reply, if it has any. Raises UserError for one that the model has no row for."""
    tokens = tuple(each for each in reply if isinstance(each, int))
    for token in tokens:
        if not 0 <= token < renderer.num_embedded:
            raise UserError(
                f"an episode replied with the token {token}, and the model has tokens 0 to "
                f"{renderer.num_embedded - 1}; let it reply with text, or with this model's own tokens"
            )
    return tokens
